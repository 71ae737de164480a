"""`gridcast completion`."""

import os
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from gridcast.cli.app import cli
from gridcast.cli.exit_codes import ExitCode

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> int:
    """Print the completion script of a shell, by default of the one in SHELL.

    For bash: echo 'eval "$(gridcast completion bash)"' >> ~/.bashrc
    """
    name = shell or Path(os.environ.get("SHELL", "bash")).name
    found = get_completion_class(name) if name in SHELLS else None
    if found is None:
        raise click.UsageError(f"name a shell: {', '.join(SHELLS)}")
    click.echo(found(cli, {}, "gridcast", "_GRIDCAST_COMPLETE").source())
    return ExitCode.OK
