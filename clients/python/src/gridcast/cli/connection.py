"""Which server, and with which token: option, then environment, then profile, then default."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from gridcast._client import Client
from gridcast.errors import InvalidRequest

DEFAULT_URL = "http://127.0.0.1:8000"
MAX_TOKEN_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Connection:
    """A server as the user named it. `profile` is empty without one; `token_file` is read at each use, as it may be renewed."""

    url: str
    profile: str = ""
    token: str | None = None
    token_file: Path | None = None

    def client(self) -> Client:
        """Return a client of this server. Raises InvalidRequest."""
        token_file = self.token_file
        if self.token is None and token_file is not None:
            return Client(self.url, lambda: read_token_file(token_file))
        return Client(self.url, self.token)


def read_token_file(path: Path) -> str:
    """Return the token in a file. Raises InvalidRequest, which never quotes the content."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_TOKEN_FILE_BYTES).decode("ascii").strip()
    except OSError as error:
        raise InvalidRequest(f"the token file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"the token file {path} holds no token") from None


def config_path() -> Path:
    """Return where profiles are: gridcast/config.toml in XDG_CONFIG_HOME or ~/.config."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gridcast" / "config.toml"


def state_folder() -> Path:
    """Return where state files of unfinished uploads are: gridcast/uploads in XDG_STATE_HOME or ~/.local/state."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gridcast" / "uploads"


def find_connection(url: str | None, profile: str | None) -> Connection:
    """Return the server for the options of a command. Raises InvalidRequest for a profile that is not there.

    The token of a profile belongs to the server of that profile: where --url or GRIDCAST_URL names another one, it is not sent.
    """
    name = profile or os.environ.get("GRIDCAST_PROFILE") or ""
    known = _read_profile(name) if name else {}
    environment_url = "" if profile else os.environ.get("GRIDCAST_URL", "")
    chosen = url or environment_url or known.get("url") or DEFAULT_URL
    token = os.environ.get("GRIDCAST_TOKEN") if not profile else None
    token_file = os.environ.get("GRIDCAST_TOKEN_FILE") if not profile else None
    if not token and not token_file and chosen == known.get("url"):
        token_file = known.get("token_file")
    return Connection(chosen, name, token or None, Path(token_file).expanduser() if token_file else None)


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
