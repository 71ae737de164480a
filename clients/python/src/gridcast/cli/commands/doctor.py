"""`gridcast doctor`: runs the checks of `gridcast.cli.server_checks` and prints what each found."""

import click

from gridcast.cli.connection import ServerChoice, find_connection, output_options, server_options
from gridcast.cli.exit_codes import ExitCode
from gridcast.cli.output import CommandOutput, printable
from gridcast.cli.server_checks import ServerChecks


@click.command()
@click.option("--read-only", is_flag=True, help="Store no file: no check of ranges and of uploads.")
@click.option("--origin", metavar="ORIGIN", help="A web page's origin that is to use the server: checks CORS.")
@server_options
@output_options
def doctor(*, read_only: bool, origin: str | None, server: ServerChoice, output: CommandOutput) -> int:
    """Check a server and the way to it: versions, clocks, ranges, proxies that buffer, WebSocket, CORS.

    It stores a file of 1 MiB below .gridcast-doctor/ and removes it. Exit code 0 if nothing is wrong, 7 if the server is away.
    """
    connection = find_connection(server)
    with connection.client() as client:
        output.note(f"checking {client.url}")
        worst = ExitCode.OK
        for result in ServerChecks(client, origin, read_only=read_only).run():
            output.record(
                f"{result.mark:<5} {result.name:<11} {printable(result.text)}",
                {"check": result.name, "result": result.mark, "text": result.text},
            )
            if result.mark == "fault" and worst is ExitCode.OK:
                worst = result.code
    return worst
