"""The command group. Commands are imported when they run, so that `gridcast --help` starts at once."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from gridcast.cli.exit_codes import ExitCode, exit_code_of

COMMANDS: dict[str, tuple[str, str]] = {
    "upload": ("transfers", "Upload files, folders, or standard input."),
    "download": ("transfers", "Download files or folders."),
    "cat": ("transfers", "Write files to standard output."),
    "ls": ("files", "List files and folders."),
    "info": ("files", "Describe files."),
    "mv": ("files", "Give a file another name."),
    "rm": ("files", "Remove files."),
    "restore": ("files", "Bring back what was removed."),
    "cp": ("copying", "Copy files, also between servers."),
    "sync": ("copying", "Make a folder equal to another one."),
    "link": ("files", "Make, prolong and revoke signed links."),
    "listen": ("events", "Print events as they come."),
    "push": ("events", "Push an event to clients."),
    "live": ("live", "Send and administer live streams."),
    "hooks": ("hooks", "Administer webhooks."),
    "token": ("tokens", "Make a token to try a server."),
    "doctor": ("doctor", "Check a server and the way to it."),
    "completion": ("completion", "Print the completion script of a shell."),
}
"""Each command: its module below gridcast.cli.commands, and its line in the help."""


class LazyGroup(click.Group):
    """Imports a command when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"gridcast.cli.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _print_version(ctx: click.Context, _option: click.Parameter, value: bool) -> None:  # noqa: FBT001  # click calls it
    if value and not ctx.resilient_parsing:
        from gridcast._operations import client_version  # noqa: PLC0415  # only here

        click.echo(f"gridcast {client_version()}")
        ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def cli() -> None:
    """Upload, download and listen: the command line of Gridcast.

    A remote place is folder/name, as in demo/clip.mp4. The server is GRIDCAST_URL or --url, the token GRIDCAST_TOKEN, or the file
    GRIDCAST_TOKEN_FILE or --token-file.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not allowed, 4 not found, 5 conflict, 6 some of several failed, 7 the server is away,
    130 interrupted.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code. GRIDCAST_DEBUG=1 shows tracebacks."""
    try:
        result: Any = cli.main(list(arguments), prog_name="gridcast", standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except Exception as error:
        if os.environ.get("GRIDCAST_DEBUG"):
            raise
        from gridcast.cli.output import CommandOutput  # noqa: PLC0415  # it imports the values of the client

        CommandOutput().error(error)
        return exit_code_of(error)
    return int(result or 0)
