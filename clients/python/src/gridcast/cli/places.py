"""Remote places: `folder/name`, `profile:folder/name`, or the address http(s)://host/files/folder/name."""

import fnmatch
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from gridcast._client import Client
from gridcast.cli.connection import Connection, ServerChoice, find_connection
from gridcast.cli.output import printable
from gridcast.errors import FileMissing, InvalidRequest, RequestError
from gridcast.values import FileInfo

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
