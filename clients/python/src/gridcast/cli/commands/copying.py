"""`gridcast cp`: from one remote place to another, on the same server or between two. `gridcast sync`: makes a remote folder
equal to a local one, or with --down the other way round.
"""

from dataclasses import dataclass
from pathlib import Path

import click

from gridcast._client import Client
from gridcast.cli.commands.transfers import UploadRequest, download_file, hash_file, upload_file
from gridcast.cli.connection import (
    Connection,
    ServerChoice,
    expand,
    files_below,
    is_folder_or_pattern,
    jobs_option,
    normalise_folder,
    output_options,
    parse_place,
    server_options,
)
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.output import CommandOutput, file_document, printable
from gridcast.cli.transfer_runner import TransferJob, TransferOutcome, TransferRunner
from gridcast.errors import DigestMismatch, InvalidRequest, NameConflict
from gridcast.values import FileInfo, ProgressCallback


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--replace", is_flag=True, help="Replace files that exist.")
@jobs_option
@server_options
@output_options
def cp(source: str, target: str, *, replace: bool, jobs: int, server: ServerChoice, output: CommandOutput) -> int:
    """Copy files: `gridcast cp demo/a.mp4 backup/` or, between servers, `gridcast cp staging:demo/ production:demo/`.

    Each place is folder/name, profile:folder/name or http(s)://host/files/folder/name. The bytes go through this computer; media
    type and metadata are kept. A file that is there already with the same bytes is left as it is.
    """
    source_server, source_path = parse_place(source, server)
    target_server, target_path = parse_place(target, server)
    with source_server.client() as reader, target_server.client() as writer:
        is_many = is_folder_or_pattern(source_path)
        if is_many and target_path and not target_path.endswith("/"):
            raise click.UsageError("the target of several files is a folder: end it with a slash")

        def name_of(info: FileInfo) -> str:
            if target_path and not target_path.endswith("/"):
                return target_path
            below = info.filename
            if source_path.endswith("/") or (is_many and not source_path):
                prefix = normalise_folder(source_path)
                below = info.path.removeprefix(f"{prefix}/") if prefix else info.path
            return "/".join(filter(None, (normalise_folder(target_path), below)))

        planned = [_job(reader, writer, info, name_of(info), replace=replace) for info in expand(reader, source_path)]
        return TransferRunner(output, jobs).run(planned)


def _job(reader: Client, writer: Client, info: FileInfo, path: str, *, replace: bool) -> TransferJob:
    def run(progress: ProgressCallback) -> TransferOutcome:
        return copy_file(reader, writer, info, path, progress, replace=replace)

    return TransferJob(path, info.length, run)


def copy_file(
    reader: Client, writer: Client, info: FileInfo, path: str, progress: ProgressCallback, *, replace: bool
) -> TransferOutcome:
    """Copy one version of a file. Raises DigestMismatch where what was read is not what the source says."""
    try:
        with reader.open(info.path) as file:
            stored = writer.upload(
                file,  # a raw binary file
                path,
                content_type=info.content_type,
                metadata={} if replace else {key: str(value) for key, value in info.metadata.items()},
                replace=replace,
                progress=progress,
            )
    except NameConflict:
        found = writer.info(path)
        if found.sha256 is not None and found.sha256 == info.sha256:
            return TransferOutcome("unchanged", file_document(found))
        raise
    if info.sha256 is not None and stored.sha256 != info.sha256:
        writer.remove(path, etag=stored.etag)
        raise DigestMismatch("what was read has another SHA-256 than the source states; the copy was removed")
    return TransferOutcome("copied", file_document(stored))


@dataclass(frozen=True, slots=True)
class SyncPlan:
    """Names relative to both folders: what to transfer, and what only the target has."""

    transfers: list[str]
    extra: list[str]
    unchanged: int


def plan_sync(local: dict[str, Path], remote: dict[str, FileInfo], *, down: bool) -> SyncPlan:
    """Compare by size, then by SHA-256. A remote file without SHA-256 counts as different."""
    source, target = (set(remote), set(local)) if down else (set(local), set(remote))
    same = {name for name in source & target if _is_equal(local[name], remote[name])}
    return SyncPlan(sorted(source - same), sorted(target - source), len(same))


def _is_equal(path: Path, info: FileInfo) -> bool:
    return path.stat().st_size == info.length and hash_file(path) == info.sha256


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--down", is_flag=True, help="SOURCE is the remote folder, TARGET the local one.")
@click.option("--delete", is_flag=True, help="Remove files that only the target has.")
@click.option("--dry-run", "-n", is_flag=True, help="Print what would be done.")
@jobs_option
@server_options
@output_options
def sync(
    source: str,
    target: str,
    *,
    down: bool,
    delete: bool,
    dry_run: bool,
    jobs: int,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Make TARGET equal to SOURCE: `gridcast sync photos trips/photos`, or `gridcast sync --down trips/photos photos`.

    Files are compared by size and SHA-256; different ones are replaced. With --delete, what only the target has is removed, unless
    a transfer failed.
    """
    folder, place = (Path(target), source) if down else (Path(source), target)
    if not down and not folder.is_dir():
        raise InvalidRequest(f"{folder} is no folder here")
    connection, path = parse_place(place, server)
    root = normalise_folder(path)
    prefix = f"{root}/" if root else ""
    with connection.client() as client:
        remote = {info.path.removeprefix(prefix): info for info in files_below(client, root)}
        if down and not remote:
            raise InvalidRequest(f"there is no remote folder {root}")
        local = {one.relative_to(folder).as_posix(): one for one in folder.rglob("*") if _counts(one)}
        plan = plan_sync(local, remote, down=down)
        if dry_run:
            return _print_plan(plan, output, delete=delete)
        planned = [
            _download_job(client, remote[name], folder, name)
            if down
            else _upload_job(client, connection, folder / name, prefix + name, replace=name in remote)
            for name in plan.transfers
        ]
        code = TransferRunner(output, jobs).run(planned)
        if delete and code is ExitCode.OK:
            for name in plan.extra:
                if down:
                    local[name].unlink()
                else:
                    client.remove(prefix + name, etag=remote[name].etag)
                output.record(f"removed {printable(name)}", {"path": name, "status": "removed"})
        removed = len(plan.extra) if delete and code is ExitCode.OK else 0
        output.note(f"{len(plan.transfers)} to transfer, {plan.unchanged} unchanged, {removed} removed")
    return code


def _counts(path: Path) -> bool:
    is_part = path.name.startswith(".gridcast-") and path.suffix == ".part"
    return path.is_file() and not is_part


def _print_plan(plan: SyncPlan, output: CommandOutput, *, delete: bool) -> ExitCode:
    for verb, names in (("transfer", plan.transfers), ("remove", plan.extra if delete else [])):
        for name in names:
            output.record(f"would {verb} {printable(name)}", {"path": name, "status": f"would_{verb}"})
    return ExitCode.OK


def _upload_job(client: Client, connection: Connection, source: Path, path: str, *, replace: bool) -> TransferJob:
    request = UploadRequest(source, path)
    return TransferJob(
        path,
        source.stat().st_size,
        lambda progress: upload_file(client, connection, request, progress, replace=replace),
    )


def _download_job(client: Client, info: FileInfo, folder: Path, name: str) -> TransferJob:
    target = folder / name
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(f"{info.path} would be written outside of {folder}")
    return TransferJob(info.path, info.length, lambda progress: download_file(client, info, target, progress))
