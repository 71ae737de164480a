"""`gridcast upload`: files, folders, globs and standard input, each continued where an earlier run was interrupted.
`gridcast download` and `gridcast cat`.
"""

import glob
import hashlib
import mimetypes
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from gridcast._client import Client
from gridcast.cli.connection import (
    Connection,
    ServerChoice,
    expand,
    find_connection,
    is_folder_or_pattern,
    jobs_option,
    name_in_errors,
    normalise_folder,
    output_options,
    parse_place,
    server_options,
    state_folder,
)
from gridcast.cli.output import CommandOutput, file_document
from gridcast.cli.transfer_runner import TransferJob, TransferOutcome, TransferRunner
from gridcast.errors import FileMissing, InvalidRequest, NameConflict
from gridcast.values import FileInfo, ProgressCallback


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What to send, and where to."""

    source: Path
    path: str


@click.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option(
    "--to", "-t", "to", metavar="PLACE", default="", help="A folder if it ends with a slash, or the name of one file."
)
@click.option("--replace", is_flag=True, help="Replace files that exist.")
@click.option("--type", "content_type", metavar="TYPE", help="The media type; else by the extension.")
@click.option("--meta", "-m", "metadata", metavar="KEY=VALUE", multiple=True, help="Metadata of the files.")
@click.option("--sid", metavar="SID", help="A client that receives the progress.")
@jobs_option
@server_options
@output_options
def upload(
    sources: tuple[str, ...],
    to: str,
    *,
    replace: bool,
    content_type: str | None,
    metadata: tuple[str, ...],
    sid: str | None,
    jobs: int,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Upload files, folders with all below them, globs, or - for standard input.

    A folder keeps its name: `gridcast upload photos --to trips/` stores trips/photos/... A file that is there already, with the
    same bytes, is left as it is; so the same command continues what was interrupted.
    """
    keys = _parse_metadata(metadata)
    connection = find_connection(server)
    with connection.client() as client:

        def send(request: UploadRequest, progress: ProgressCallback) -> TransferOutcome:
            return upload_file(
                client,
                connection,
                request,
                progress,
                content_type=content_type,
                metadata=keys,
                replace=replace,
                sid=sid,
            )

        if "-" in sources:
            if len(sources) > 1 or not to or to.endswith("/"):
                raise click.UsageError("standard input is uploaded alone, with --to folder/name")

            def send_input(progress: ProgressCallback) -> TransferOutcome:
                info = client.upload(
                    sys.stdin.buffer,
                    to,
                    content_type=content_type or mimetypes.guess_type(to)[0],
                    metadata=keys,
                    replace=replace,
                    sid=sid,
                    progress=progress,
                )
                return TransferOutcome("uploaded", file_document(info))

            return TransferRunner(output, 1).run([TransferJob(to, None, send_input)])
        requests = list(_plan(sources, to))
        transfers = [
            TransferJob(one.path, one.source.stat().st_size, lambda report, one=one: send(one, report))  # type: ignore[misc]
            for one in requests
        ]
        return TransferRunner(output, jobs).run(transfers)


def _plan(sources: tuple[str, ...], to: str) -> Iterator[UploadRequest]:
    """Yield what to send. Raises FileMissing for a source that is not there, UsageError for several files with one name."""
    paths = [path for text in sources for path in _expand(text)]
    is_folder = not to or to.endswith("/")
    folder = normalise_folder(to)
    if not is_folder and (len(paths) > 1 or paths[0].is_dir()):
        raise click.UsageError("--to names one file: end it with a slash for a folder")
    for path in paths:
        if path.is_dir():
            found = sorted(one for one in path.rglob("*") if one.is_file())
            root = path.resolve()
            yield from (UploadRequest(one, _join(folder, root.name, one.relative_to(path).as_posix())) for one in found)
        else:
            yield UploadRequest(path, _join(folder, path.name) if is_folder else folder)


def _expand(text: str) -> list[Path]:
    if Path(text).exists():
        return [Path(text)]
    if found := sorted(glob.glob(text, recursive=True)):  # noqa: PTH207  # a pattern may be absolute
        return [Path(one) for one in found]
    raise FileMissing(f"{text}: no such file or folder here")


def _join(*segments: str) -> str:
    return "/".join(filter(None, segments))


def _parse_metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.UsageError("--meta is KEY=VALUE")
        parsed[key] = value
    return parsed


def upload_file(
    client: Client,
    connection: Connection,
    request: UploadRequest,
    progress: ProgressCallback,
    *,
    content_type: str | None = None,
    metadata: dict[str, str] | None = None,
    replace: bool = False,
    sid: str | None = None,
) -> TransferOutcome:
    """Upload one file with a state file. Where the name is taken by the same bytes, that is no conflict."""
    try:
        info = client.upload(
            request.source,
            request.path,
            content_type=content_type or mimetypes.guess_type(request.path)[0],
            metadata=metadata,
            replace=replace,
            state=state_path(client, connection, request),
            sid=sid,
            progress=progress,
        )
    except NameConflict:
        found = client.info(request.path)
        if found.length == request.source.stat().st_size and found.sha256 == hash_file(request.source):
            return TransferOutcome("unchanged", file_document(found))
        raise
    return TransferOutcome("uploaded", file_document(info))


def state_path(client: Client, connection: Connection, request: UploadRequest) -> Path:
    """Return the state file of an upload: of this server, profile, file and name."""
    key = "\0".join((client.url, connection.profile, str(request.source.resolve()), request.path))
    return state_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a local file in hex."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@click.option(
    "--output", "-o", "to", metavar="PATH", default=".", help="A file, or a folder: the current one if not given."
)
@jobs_option
@server_options
@output_options
def download(places: tuple[str, ...], to: str, *, jobs: int, server: ServerChoice, output: CommandOutput) -> int:
    """Download files, folders with all below them (demo/), or patterns ('demo/*.mp4').

    A file appears complete and with its SHA-256 compared, or not at all; the same command continues what was interrupted. A file
    that is there already with the same bytes is not downloaded again, another one is replaced.
    """
    planned: list[TransferJob] = []
    clients: list[Client] = []
    targets: set[Path] = set()
    try:
        for place in places:
            connection, path = parse_place(place, server)
            client = connection.client()
            clients.append(client)
            several = len(places) > 1 or is_folder_or_pattern(path)
            for info in expand(client, path):
                target = _target(info, path, to, several=several)
                if target in targets:
                    raise click.UsageError(f"two files would be written to {target}")
                targets.add(target)
                planned.append(_job(client, info, target))
        return TransferRunner(output, jobs).run(planned)
    finally:
        for client in clients:
            client.close()


def _target(info: FileInfo, place: str, to: str, *, several: bool) -> Path:
    """Return the local path of a file: below a folder its remote path counts from that folder's name on."""
    folder = Path(to)
    if not several:
        return folder / info.filename if folder.is_dir() or to.endswith("/") else folder
    relative = info.filename
    if place.endswith("/") or not place:
        parent = normalise_folder(place).rpartition("/")[0]
        relative = info.path.removeprefix(f"{parent}/") if parent else info.path
    target = folder / relative
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(f"{info.path} would be written outside of {to}")
    return target


def _job(client: Client, info: FileInfo, target: Path) -> TransferJob:
    return TransferJob(info.path, info.length, lambda progress: download_file(client, info, target, progress))


def download_file(client: Client, info: FileInfo, target: Path, progress: ProgressCallback) -> TransferOutcome:
    """Download one file, unless the same bytes are there."""
    document = {**file_document(info), "target": str(target)}
    if info.sha256 and target.is_file() and target.stat().st_size == info.length and hash_file(target) == info.sha256:
        return TransferOutcome("unchanged", document)
    target.parent.mkdir(parents=True, exist_ok=True)
    client.download(info.path, target, progress=progress)
    return TransferOutcome("downloaded", document)


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@click.option("--offset", type=click.IntRange(0), default=0, help="Begin at this byte.")
@click.option("--length", type=click.IntRange(0), help="Write this number of bytes at most.")
@server_options
def cat(places: tuple[str, ...], *, offset: int, length: int | None, server: ServerChoice) -> int:
    """Write files to standard output, one after the other. A whole file is compared with its SHA-256 at the end."""
    for place in places:
        connection, path = parse_place(place, server)
        with connection.client() as client, name_in_errors(path):
            if not offset and length is None:
                client.download(path, sys.stdout.buffer)
            else:
                _write_range(client, path, offset, length)
    sys.stdout.buffer.flush()
    return 0


def _write_range(client: Client, path: str, offset: int, length: int | None) -> None:
    with client.open(path) as file:
        file.seek(offset)
        missing = max(0, file.info.length - offset) if length is None else length
        while missing and (block := file.read(min(missing, 1024 * 1024))):
            sys.stdout.buffer.write(block)
            missing -= len(block)
