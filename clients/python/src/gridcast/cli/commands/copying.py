"""`gridcast cp`: from one remote place to another, on the same server or between two."""

import click

from gridcast._client import Client
from gridcast.cli.connection import ServerChoice
from gridcast.cli.options import jobs_option, output_options, server_options
from gridcast.cli.output import CommandOutput, file_document
from gridcast.cli.places import expand, is_folder_or_pattern, normalise_folder, parse_place
from gridcast.cli.transfer_runner import TransferJob, TransferOutcome, TransferRunner
from gridcast.errors import DigestMismatch, NameConflict
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
