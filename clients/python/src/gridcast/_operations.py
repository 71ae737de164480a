"""What both clients share: options, and the flow of each operation from its public arguments."""

import math
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata as distributions
from pathlib import Path
from types import FunctionType
from typing import Any, BinaryIO, TypeAlias, TypeVar
from uuid import uuid4

from gridcast._flows import single_requests
from gridcast._flows.downloads import DownloadFlow
from gridcast._flows.effects import ByteSource, Flow
from gridcast._flows.listening import ListenSession
from gridcast._flows.retries import FlowContext
from gridcast._flows.uploads import PART_BYTES, UploadFlow, UploadOptions
from gridcast._local.state_file import StateFile
from gridcast._local.targets import FileTarget, PathTarget
from gridcast._server_url import parse_server_url
from gridcast.errors import InvalidRequest
from gridcast.values import FileInfo, ProgressCallback, PushReceipt

DEFAULT_TIMEOUT_SECONDS = 30.0
DEFAULT_OUTAGE_SECONDS = 60.0
UNKNOWN_VERSION = "0"

Kind = TypeVar("Kind")
PathArgument: TypeAlias = str | os.PathLike[str]
UploadSource: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | Iterable[bytes]


def user_agent() -> str:
    """Return the User-Agent of this package."""
    return f"gridcast-python/{client_version()}"


def client_version() -> str:
    """Return the version of this distribution."""
    try:
        return distributions.version("gridcast")
    except distributions.PackageNotFoundError:  # imported from a source folder
        return UNKNOWN_VERSION


def documented_as(twin: type) -> Callable[[type[Kind]], type[Kind]]:
    """Let the methods of a class that have no docstring show that of the method of this name in another class."""

    def share(kind: type[Kind]) -> type[Kind]:
        for name, member in vars(kind).items():
            if isinstance(member, FunctionType) and not name.startswith("_"):
                member.__doc__ = member.__doc__ or getattr(twin, name).__doc__
        return kind

    return share


class Operations:
    """Builds flows. `timeout` is the seconds without a byte after which a request fails, `outage_seconds` those without progress
    after which a transfer does.
    """

    def __init__(self, url: str, timeout: float, outage_seconds: float) -> None:
        if not (math.isfinite(timeout) and timeout > 0 and math.isfinite(outage_seconds) and outage_seconds >= 0):
            raise InvalidRequest("timeout and outage_seconds are positive numbers of seconds")
        self.url = parse_server_url(url)
        self.timeout = timeout
        self.context = FlowContext(time.monotonic, random.random, outage_seconds)

    def upload(
        self,
        source: ByteSource,
        path: str,
        options: UploadOptions,
        state: PathArgument | None,
        progress: ProgressCallback | None,
    ) -> Flow[FileInfo]:
        """The flow of an upload, whose state is kept in the file `state`."""
        kept = None if state is None else StateFile(Path(state), self.url.origin)
        return UploadFlow(self.context, path, source, options, state=kept, progress=progress).run()

    def download(self, path: str, target: PathTarget | FileTarget, progress: ProgressCallback | None) -> Flow[str]:
        """The flow of a download."""
        return DownloadFlow(self.context, path, target, progress).run()

    def push(
        self, target: tuple[str, str | None], event: tuple[str, Any, str | None], wait: float | None = None
    ) -> Flow[PushReceipt]:
        """The flow of a push; an event without an id gets one, so that it can be repeated."""
        event_type, data, event_id = event
        return single_requests.push(self.context, target, (event_type, data, event_id or str(uuid4())), wait)

    def session(self, topics: Iterable[str]) -> ListenSession:
        """The state of a listener. Raises InvalidRequest for a topic that no server accepts."""
        if isinstance(topics, str):
            topics = [topics]
        return ListenSession(topics, random.random)

    def info(self, path: str) -> Flow[FileInfo]:
        """The flow of a description."""
        return single_requests.get_info(self.context, path)

    def range(self, info: FileInfo, start: int, size: int) -> Flow[bytes]:
        """The flow of one range of one version."""
        return single_requests.read_range(self.context, info.path, info.etag, start, size)


def upload_options(
    content_type: str | None,
    metadata: Mapping[str, str] | None,
    sid: str | None,
    part_bytes: int | None,
    *,
    replace: bool,
) -> UploadOptions:
    """Return the options of an upload. Raises InvalidRequest for metadata that is not text."""
    given = dict(metadata or {})
    for key, value in given.items():
        if not isinstance(value, str) or not key or not key.isascii() or not key.isprintable() or set(key) & {" ", ","}:
            raise InvalidRequest(
                "metadata has keys of printable ASCII without space and comma, and values that are strings"
            )
        if key in {"filename", "filetype", "folder", "sid"}:
            raise InvalidRequest(f"metadata has no key {key}: it is an argument of its own")
    return UploadOptions(content_type, given, replace, sid, part_bytes or PART_BYTES)
