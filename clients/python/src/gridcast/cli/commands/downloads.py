"""`gridcast download` and `gridcast cat`."""

import sys
from pathlib import Path

import click

from gridcast._client import Client
from gridcast.cli.commands.uploads import hash_file
from gridcast.cli.connection import ServerChoice
from gridcast.cli.options import jobs_option, output_options, server_options
from gridcast.cli.output import CommandOutput, file_document
from gridcast.cli.places import expand, is_folder_or_pattern, name_in_errors, normalise_folder, parse_place
from gridcast.cli.transfer_runner import TransferJob, TransferOutcome, TransferRunner
from gridcast.errors import InvalidRequest
from gridcast.values import FileInfo, ProgressCallback


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
