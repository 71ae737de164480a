"""`gridcast ls`, `gridcast info` and `gridcast rm`."""

import json

import click

from gridcast._client import Client
from gridcast.cli.connection import ServerChoice
from gridcast.cli.exit_codes import ExitCode, exit_code_of
from gridcast.cli.options import output_options, server_options
from gridcast.cli.output import CommandOutput, file_document, format_bytes, printable
from gridcast.cli.places import (
    expand,
    explain_folder,
    files_below,
    is_folder_or_pattern,
    name_in_errors,
    normalise_folder,
    parse_place,
)
from gridcast.errors import FileMissing, PermissionDenied, RequestError
from gridcast.values import FileInfo


@click.command()
@click.argument("place", required=False, default="")
@click.option("--recursive", "-r", is_flag=True, help="Files of folders below as well.")
@click.option("--long", "-l", "is_long", is_flag=True, help="Size, time and media type.")
@server_options
@output_options
def ls(place: str, *, recursive: bool, is_long: bool, server: ServerChoice, output: CommandOutput) -> int:
    """List the folders and files in a folder, or the files that match a pattern."""
    connection, path = parse_place(place, server)
    with connection.client() as client:
        if is_folder_or_pattern(path) and path and not path.endswith("/"):
            found = expand(client, path)
        elif recursive:
            found = sorted(files_below(client, path), key=lambda info: info.path)
        else:
            folders = _folders_in(client, normalise_folder(path))
            try:
                found = sorted(client.files(normalise_folder(path)), key=lambda info: info.path)
            except PermissionDenied:
                if path and not folders:
                    raise
                found = []  # the token is for folders below
            for folder in folders:
                output.record(f"{printable(folder)}/", {"folder": folder})
            if path and not found and not folders:
                raise FileMissing(f"there is no folder {path}")
        for info in found:
            output.record(_describe(info, is_long=is_long), file_document(info))
    return ExitCode.OK


def _folders_in(client: Client, folder: str) -> list[str]:
    prefix = f"{folder}/" if folder else ""
    below = (name.removeprefix(prefix) for name in client.folders() if name and name.startswith(prefix))
    return sorted({prefix + name.partition("/")[0] for name in below if name})


def _describe(info: FileInfo, *, is_long: bool) -> str:
    if not is_long:
        return printable(info.path)
    return f"{info.length:>14} {info.uploaded_at:%Y-%m-%d %H:%M:%S} {info.content_type:<24} {printable(info.path)}"


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@server_options
@output_options
def info(places: tuple[str, ...], *, server: ServerChoice, output: CommandOutput) -> int:
    """Describe files: size, media type, SHA-256, time, revision, metadata."""
    for place in places:
        connection, path = parse_place(place, server)
        with connection.client() as client, name_in_errors(path):
            found = client.info(path)
        document = file_document(found)
        shown = {**document, "length": f"{found.length} ({format_bytes(found.length)})"}
        lines = [
            f"{key:<13} {printable(json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value))}"
            for key, value in shown.items()
            if key not in {"folder", "filename"}
        ]
        output.record("\n".join(lines), document)
    return ExitCode.OK


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@click.option("--recursive", "-r", is_flag=True, help="Needed for folders.")
@click.option("--dry-run", "-n", is_flag=True, help="Print what would be removed.")
@server_options
@output_options
def rm(
    places: tuple[str, ...],
    *,
    recursive: bool,
    dry_run: bool,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Remove files: PLACE is a file, a pattern, or with --recursive a folder that ends with a slash."""
    failures: list[RequestError] = []
    count = 0
    for place in places:
        connection, path = parse_place(place, server)
        if (path.endswith("/") or not path) and not recursive:
            raise click.UsageError(f"{place or '/'} is a folder: --recursive removes all below it")
        with connection.client() as client:
            try:
                found = [one.path for one in expand(client, path)] if is_folder_or_pattern(path) else [path]
            except RequestError as error:
                found = []
                count += 1
                failures.append(error)
                output.error(error, printable(path))
            for one in found:
                count += 1
                try:
                    if not dry_run:
                        client.remove(one)
                except RequestError as error:
                    if isinstance(error, FileMissing):
                        explain_folder(client, one, error)
                    failures.append(error)
                    output.error(error, printable(one))
                else:
                    verb = "would remove" if dry_run else "removed"
                    output.record(f"{verb} {printable(one)}", {"path": one, "status": verb.replace(" ", "_")})
    if not failures:
        return ExitCode.OK
    return exit_code_of(failures[0]) if len(failures) == count else ExitCode.SOME_FAILED
