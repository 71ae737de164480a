"""Which server, and with which token: option, then environment, then profile, then default. The options that commands share."""

import functools
import os
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from gridcast._client import Client
from gridcast._tokens import token_from_environment
from gridcast.cli.output import CommandOutput
from gridcast.errors import InvalidRequest

DEFAULT_URL = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True)
class Connection:
    """A server as the user named it. `profile` is empty without one; `token` is one, or the path of a file that has it."""

    url: str
    profile: str = ""
    token: str | Path | None = field(default=None, repr=False)

    def client(self) -> Client:
        """Return a client of this server. Raises InvalidRequest."""
        return Client(self.url, self.token)


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """The options by which a command names its server: --url, --profile, --token-file."""

    url: str | None = None
    profile: str | None = None
    token_file: Path | None = None


def config_path() -> Path:
    """Return where profiles are: gridcast/config.toml in XDG_CONFIG_HOME or ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gridcast" / "config.toml"


def state_folder() -> Path:
    """Return where state files of unfinished uploads are: gridcast/uploads in XDG_STATE_HOME or ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gridcast" / "uploads"


def find_connection(choice: ServerChoice) -> Connection:
    """Return the server for the options of a command. Raises InvalidRequest for a profile that is not there.

    The token of a profile belongs to the server of that profile: where --url or GRIDCAST_URL names another one, it is not sent.
    """
    name = choice.profile or os.environ.get("GRIDCAST_PROFILE") or ""
    known = _read_profile(name) if name else {}
    environment_url = "" if choice.profile else os.environ.get("GRIDCAST_URL", "")
    chosen = choice.url or environment_url or known.get("url") or DEFAULT_URL
    token: str | Path | None = choice.token_file
    if token is None and not choice.profile:
        token = token_from_environment()
    if token is None and chosen == known.get("url") and "token_file" in known:
        token = Path(known["token_file"]).expanduser()
    return Connection(chosen, name, token)


def _read_profile(name: str) -> dict[str, str]:
    path = config_path()
    try:
        profiles = tomllib.loads(path.read_text("utf-8")).get("profiles", {})
    except FileNotFoundError:
        profiles = {}
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from None
    found = profiles.get(name) if isinstance(profiles, dict) else None
    if not isinstance(found, dict):
        raise InvalidRequest(f"there is no profile {name} in {path}")
    unknown = found.keys() - {"url", "token_file"}
    if unknown or not all(isinstance(value, str) for value in found.values()):
        raise InvalidRequest(f"the profile {name} in {path} has the texts `url` and `token_file`, and nothing else")
    return found


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
