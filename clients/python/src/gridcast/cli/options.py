"""Options that commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from gridcast.cli.connection import ServerChoice
from gridcast.cli.output import CommandOutput

F = TypeVar("F", bound=Callable[..., Any])


def server_options(command: F) -> F:
    """Add --url, --profile and --token-file, and give the command a ServerChoice as `server`."""

    @functools.wraps(command)
    def with_server(*args: Any, url: str | None, profile: str | None, token_file: Path | None, **options: Any) -> Any:
        return command(*args, server=ServerChoice(url, profile, token_file), **options)

    wrapped = click.option(
        "--token-file", type=click.Path(path_type=Path), help="A file with the token; else GRIDCAST_TOKEN(_FILE)."
    )(with_server)
    wrapped = click.option("--profile", metavar="NAME", help="A profile of config.toml; else GRIDCAST_PROFILE.")(
        wrapped
    )
    return click.option(  # type: ignore[return-value]
        "--url", metavar="URL", help="The server; else GRIDCAST_URL, the profile, http://127.0.0.1:8000."
    )(wrapped)


def output_options(command: F) -> F:
    """Add --json and --quiet, and give the command a CommandOutput as `output`."""

    @functools.wraps(command)
    def with_output(*args: Any, is_json: bool, is_quiet: bool, **options: Any) -> Any:
        return command(*args, output=CommandOutput(is_json=is_json, is_quiet=is_quiet), **options)

    wrapped = click.option("--quiet", "-q", "is_quiet", is_flag=True, help="Print errors and data only.")(with_output)
    return click.option("--json", "is_json", is_flag=True, help="Print one JSON object a line.")(wrapped)  # type: ignore[return-value]


def jobs_option(command: F) -> F:
    """Add --jobs."""
    return click.option(
        "--jobs", "-j", type=click.IntRange(1, 32), default=4, show_default=True, help="Transfers at the same time."
    )(command)
