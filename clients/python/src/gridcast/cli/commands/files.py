"""`gridcast ls`, `info`, `rm`, `mv` and `restore`, and `gridcast link`, which makes, prolongs and revokes signed links."""

import json
import re
from dataclasses import asdict
from datetime import UTC, datetime

import click

from gridcast._client import Client
from gridcast.cli.connection import (
    ServerChoice,
    expand,
    explain_folder,
    files_below,
    find_connection,
    is_folder_or_pattern,
    name_in_errors,
    normalise_folder,
    output_options,
    parse_place,
    server_options,
)
from gridcast.cli.exit_codes import ExitCode, exit_code_of
from gridcast.cli.output import CommandOutput, file_document, format_bytes, printable
from gridcast.errors import FileMissing, PermissionDenied, RequestError
from gridcast.values import FileInfo, SignedLink


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


@click.command()
@click.argument("source", metavar="PLACE")
@click.argument("target", metavar="NEW_PLACE")
@server_options
@output_options
def mv(source: str, target: str, *, server: ServerChoice, output: CommandOutput) -> int:
    """Give a file another name or folder on its server. A NEW_PLACE that ends with a slash is a folder. Nothing is copied."""
    connection, path = parse_place(source, server)
    other, new_path = parse_place(target, server)
    if other.url.rstrip("/") != connection.url.rstrip("/"):
        raise click.UsageError("mv renames on one server; between two: gridcast cp, then gridcast rm")
    if new_path.endswith("/") or not new_path:
        new_path = f"{new_path}{path.rpartition('/')[2]}"
    with connection.client() as client, name_in_errors(path):
        try:
            moved = client.move(path, new_path)
        except FileMissing as error:
            explain_folder(client, path, error)
            raise
    output.record(f"{printable(path)} -> {printable(moved.path)}", {"from": path, **file_document(moved)})
    return ExitCode.OK


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1, required=True)
@server_options
@output_options
def restore(places: tuple[str, ...], *, server: ServerChoice, output: CommandOutput) -> int:
    """Bring back what was removed last under a name, for as long as the server keeps it: usually an hour."""
    for place in places:
        connection, path = parse_place(place, server)
        with connection.client() as client, name_in_errors(path):
            restored = client.restore(path)
        output.record(f"restored {printable(restored.path)}", file_document(restored))
    return ExitCode.OK


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"([0-9]{1,9})([smhd]?)", re.ASCII)


class Duration(click.ParamType[float]):
    """A number of seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds."""
        match = _DURATION.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no duration such as 90s, 15m, 6h or 7d", param, ctx)
        return float(int(match[1]) * _UNITS[match[2] or "s"])


@click.command()
@click.argument("places", metavar="PLACE...", nargs=-1)
@click.option("--expires", type=Duration(), metavar="TIME", help="Its life, as 90s, 15m, 6h, 7d.")
@click.option("--follow", is_flag=True, help="It also reads versions that replace this one.")
@click.option("--upload", "is_upload", is_flag=True, help="It uploads PLACE once, over tus, instead of reading it.")
@click.option("--max-size", type=click.IntRange(0), metavar="BYTES", help="With --upload: the largest file.")
@click.option("--type", "media_types", metavar="TYPE", multiple=True, help="With --upload: as image/png or video/*.")
@click.option("--prolong", metavar="ID", help="Let the link with this id end later; PLACE is then the link or its URL.")
@click.option("--revoke", metavar="ID", help="Revoke the link with this id.")
@server_options
@output_options
def link(
    places: tuple[str, ...],
    *,
    expires: float | None,
    follow: bool,
    is_upload: bool,
    max_size: int | None,
    media_types: tuple[str, ...],
    prolong: str | None,
    revoke: str | None,
    server: ServerChoice,
    output: CommandOutput,
) -> int:
    """Make links that read a file, or upload one, without a token. Prints their URLs.

    The id by which a link is prolonged or revoked is printed on stderr, and with --json.
    """
    if revoke is not None:
        if places or prolong:
            raise click.UsageError("--revoke ID needs nothing else")
        with find_connection(server).client() as client:
            client.revoke_link(revoke)
        output.record(f"revoked {printable(revoke)}", {"id": revoke, "status": "revoked"})
        return ExitCode.OK
    if not places:
        raise click.UsageError("give a PLACE, or --revoke ID")
    if prolong is not None:
        if len(places) != 1:
            raise click.UsageError("--prolong ID needs the link, or its URL")
        with find_connection(server).client() as client:
            _show(output, client.prolong_link(prolong, places[0], expires_in=expires))
        return ExitCode.OK
    if (max_size is not None or media_types) and not is_upload:
        raise click.UsageError("--max-size and --type need --upload")
    if follow and is_upload:
        raise click.UsageError("--follow is for links that read")
    for place in places:
        connection, path = parse_place(place, server)
        with connection.client() as client, name_in_errors(path):
            if is_upload:
                made = client.make_upload_link(path, expires_in=expires, max_size=max_size, media_types=media_types)
            else:
                made = client.make_link(path, expires_in=expires, follow=follow)
        _show(output, made)
    return ExitCode.OK


def _show(output: CommandOutput, made: SignedLink) -> None:
    end = datetime.fromtimestamp(made.expires_at, UTC)
    output.record(made.url, {**asdict(made), "expires_at": end.isoformat()})
    output.note(f"{printable(made.path)}: until {end:%Y-%m-%d %H:%M:%S} UTC; gridcast link --revoke {made.id}")
