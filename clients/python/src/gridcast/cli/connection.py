"""Which server, and with which token: option, then environment, then profile, then default. The options that commands share.

Remote places: `folder/name`, `profile:folder/name`, or the address http(s)://host/files/folder/name.
"""

import fnmatch
import functools
import os
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import click

from gridcast._client import Client
from gridcast._tokens import token_from_environment
from gridcast.cli.output import CommandOutput, printable
from gridcast.errors import FileMissing, InvalidRequest, RequestError
from gridcast.values import FileInfo

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


_PATTERN_CHARACTERS = frozenset("*?[")


def parse_place(text: str, server: ServerChoice) -> tuple[Connection, str]:
    """Return the server and the path of a place; options name the server where the place itself does not.

    Raises:
        InvalidRequest: an address that is not below /files/.

    """
    if text.startswith(("http://", "https://")):
        parts = urlsplit(text)
        if not parts.path.startswith("/files/") or parts.query or parts.fragment:
            raise InvalidRequest(f"{text} is not the address of a file: http(s)://host/files/folder/name")
        origin = f"{parts.scheme}://{parts.netloc}"
        known = find_connection(server)
        # A token goes only to the server that it is for.
        connection = known if known.url.rstrip("/") == origin else Connection(origin)
        return connection, unquote(parts.path.removeprefix("/files/"))
    name, colon, path = text.partition(":")
    if colon and name and "/" not in name:
        return find_connection(ServerChoice(profile=name)), path
    return find_connection(server), text


@contextmanager
def name_in_errors(path: str) -> Iterator[None]:
    """Put the path before the text of an error: the server's own names none."""
    try:
        yield
    except RequestError as error:
        error.detail = f"{printable(path)}: {error.detail}"
        raise


def normalise_folder(text: str) -> str:
    """Return a folder without the slashes at its ends."""
    return text.strip("/")


def is_folder_or_pattern(path: str) -> bool:
    """Whether a place is to be expanded: it ends with a slash, is empty, or has * ? or [."""
    return not path or path.endswith("/") or bool(_PATTERN_CHARACTERS & set(path))


def explain_folder(client: Client, path: str, error: FileMissing) -> None:
    """Say in the error of a missing file that there is a folder of that name."""
    if any(f"{name}/".startswith(f"{path}/") for name in client.folders()):
        error.detail = f"this is a folder; all below it is written {path}/"


def files_below(client: Client, folder: str) -> Iterator[FileInfo]:
    """Iterate over the files of a folder and of all folders below it."""
    prefix = normalise_folder(folder)
    for name in list(client.folders()):
        if not prefix or name == prefix or name.startswith(f"{prefix}/"):
            yield from client.files(name)


def expand(client: Client, path: str) -> list[FileInfo]:
    """Return the files that a place means, by name: one file, a folder with all below it, or a pattern (* ? [ within one segment).

    Raises FileMissing where there is none.
    """
    if not is_folder_or_pattern(path):
        with name_in_errors(path):
            try:
                return [client.info(path)]
            except FileMissing as error:
                explain_folder(client, path, error)
                raise
    if path.endswith("/") or not path:
        found = list(files_below(client, path))
    else:
        folder = path.rpartition("/")[0]
        candidates = files_below(client, "") if _PATTERN_CHARACTERS & set(folder) else client.files(folder)
        pattern = path.split("/")
        found = [info for info in candidates if _matches(info.path.split("/"), pattern)]
    if not found:
        raise FileMissing(f"no file matches {path or '/'}")
    return sorted(found, key=lambda info: info.path)


def _matches(segments: list[str], pattern: list[str]) -> bool:
    return len(segments) == len(pattern) and all(
        fnmatch.fnmatchcase(segment, one) for segment, one in zip(segments, pattern, strict=True)
    )
