"""`gridcast mv` and `gridcast restore`."""

import click

from gridcast.cli.connection import ServerChoice
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.options import output_options, server_options
from gridcast.cli.output import CommandOutput, file_document, printable
from gridcast.cli.places import explain_folder, name_in_errors, parse_place
from gridcast.errors import FileMissing


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
