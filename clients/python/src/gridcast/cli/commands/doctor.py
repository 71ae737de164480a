"""`gridcast doctor`: checks a server, from the first check that must hold to those that need it, and prints what each found."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

import click

from gridcast._client import Client
from gridcast._flows.effects import HttpRequest, HttpResponse
from gridcast._flows.retries import send
from gridcast._operations import UNKNOWN_VERSION, client_version
from gridcast.cli.connection import ServerChoice, find_connection, output_options, server_options
from gridcast.cli.exit_codes import ExitCode, exit_code_of
from gridcast.cli.output import CommandOutput, printable
from gridcast.errors import RequestError
from gridcast.values import EventGap

PROBE_FOLDER = ".gridcast-doctor"
PROBE_BYTES = 1024 * 1024
MAX_CLOCK_SKEW_SECONDS = 5.0
EVENT_TIMEOUT_SECONDS = 5.0
SLOW_EVENT_SECONDS = 1.0
TRICKLE_SECONDS = 1.5
Mark = Literal["ok", "warn", "fault"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found."""

    name: str
    mark: Mark
    text: str
    code: ExitCode = ExitCode.OK


class CheckFailed(Exception):
    """A check found a fault; the text says which."""


class CheckWarning(Exception):
    """A check found something that works, and that the user should know."""


class ServerChecks:
    """The checks of one server. `origin` is that of a page whose CORS is checked."""

    def __init__(self, client: Client, origin: str | None, *, read_only: bool) -> None:
        self._client = client
        self._origin = origin
        self._read_only = read_only

    def run(self) -> Iterator[CheckResult]:
        """Yield the result of each check. After a server that is away there are no others."""
        checks: list[tuple[str, Callable[[], str]]] = [("version", self._check_version), ("clock", self._check_clock)]
        checks += [("ready", self._check_ready), ("websocket", self._check_websocket)]
        if not self._read_only:
            checks += [("ranges", self._check_ranges), ("buffering", self._check_buffering)]
        if self._origin is not None:
            checks.append(("cors", self._check_cors))
        for name, check in checks:
            try:
                yield CheckResult(name, "ok", check())
            except CheckWarning as warning:
                yield CheckResult(name, "warn", str(warning))
            except CheckFailed as failure:
                yield CheckResult(name, "fault", str(failure), ExitCode.FAILED)
            except RequestError as error:
                yield CheckResult(name, "fault", str(error), exit_code_of(error))
                if name == "version":
                    return

    def _get(self, target: str, *accepted: int, method: str = "GET", **headers: str) -> HttpResponse:
        request = HttpRequest(method, target, {name.replace("_", "-"): value for name, value in headers.items()})
        return self._client._shell.run(  # noqa: SLF001  # the same package
            send(self._client._operations.context, request, accepted=accepted)  # noqa: SLF001
        )

    def _check_version(self) -> str:
        found, own = self._client.version(), client_version()
        text = f"server {found.version}, client {own}"
        if own == UNKNOWN_VERSION:
            return f"server {found.version}, client from a source folder"
        if found.version.split(".")[:2] != own.split(".")[:2]:
            raise CheckWarning(f"{text}: they differ, and what is newer may be missing on the other side")
        return text

    def _check_clock(self) -> str:
        before = time.time()
        date = self._get("/version", 200).headers.get("date", "")
        try:
            skew = parsedate_to_datetime(date).timestamp() + 0.5 - (before + time.time()) / 2
        except (TypeError, ValueError):
            raise CheckWarning("the server sends no Date") from None
        if abs(skew) > MAX_CLOCK_SKEW_SECONDS:
            raise CheckWarning(f"the clocks differ by {skew:+.0f} s: tokens and signed links will be refused")
        return f"the clocks differ by less than {MAX_CLOCK_SKEW_SECONDS:.0f} s"

    def _check_ready(self) -> str:
        response = self._get("/readyz", 200, 503)
        if response.status != 200:
            raise CheckFailed(f"/readyz is 503: {response.body[:300].decode('utf-8', 'replace').strip()}")
        return "upload, stream and socket are ready"

    def _check_websocket(self) -> str:
        """A push to our own sid must come back at once: a proxy that buffers holds it."""
        with self._client.listen() as events:
            pushed_at = time.monotonic()
            receipt = self._client.send(str(events.sid), "doctor.probe", None)
            timer = threading.Timer(EVENT_TIMEOUT_SECONDS, events.close)
            timer.daemon = True
            timer.start()
            came = any(not isinstance(item, EventGap) and item.id == receipt.id for item in events)
            timer.cancel()
            if not came:
                raise CheckFailed("the WebSocket opened, and an event did not come: does a proxy buffer it?")
            seconds = time.monotonic() - pushed_at
        if seconds > SLOW_EVENT_SECONDS:
            raise CheckWarning(f"an event took {seconds:.1f} s from push to arrival")
        return f"an event took {seconds * 1000:.0f} ms from push to arrival"

    def _check_ranges(self) -> str:
        content = os.urandom(PROBE_BYTES)
        path = f"{PROBE_FOLDER}/{os.urandom(8).hex()}.bin"
        self._client.upload(content, path)
        try:
            with self._client.open(path) as file:
                for position in (PROBE_BYTES - 7, 123_456, 0):
                    file.seek(position)
                    if file.read(7) != content[position : position + 7]:
                        raise CheckFailed(f"the range at byte {position} has other bytes")
            head = self._get(f"/files/{path}", 200, method="HEAD")
            if head.headers.get("accept-ranges") != "bytes" or "content-encoding" in head.headers:
                raise CheckFailed("Accept-Ranges is missing, or the body is compressed: a proxy changes responses")
        finally:
            with suppress(RequestError):
                self._client.remove(path)
        return "seeking works, and bytes come as they are stored"

    def _check_buffering(self) -> str:
        """Half of a body is sent and held back: a service that has it is behind no proxy that collects whole bodies."""
        half = 256 * 1024
        path = f"{PROBE_FOLDER}/{os.urandom(8).hex()}.bin"
        seen: list[str] = []
        with self._client.listen() as events:
            sid = str(events.sid)
            held = threading.Event()

            def body() -> Iterator[bytes]:
                yield bytes(half)
                held.wait(TRICKLE_SECONDS)
                yield bytes(half)

            def watch() -> None:
                for item in events:
                    if isinstance(item, EventGap) or item.type != "file.progress":
                        continue
                    received = item.data.get("received", 0) if isinstance(item.data, dict) else 0
                    if 0 < received <= half and not held.is_set():
                        seen.append("early")
                        held.set()
                        return

            watcher = threading.Thread(target=watch, name="gridcast-doctor", daemon=True)
            watcher.start()
            try:
                source = _Trickle(body(), 2 * half)
                request = HttpRequest("PUT", f"/files/{path}?sid={sid}", source=source, length=2 * half)
                self._client._shell.run(  # noqa: SLF001  # the same package
                    send(self._client._operations.context, request, accepted={200, 201}, is_repeatable=False)  # noqa: SLF001
                )
            finally:
                events.close()
                with suppress(RequestError):
                    self._client.remove(path)
        if not seen:
            raise CheckWarning(
                "no progress before the end: a proxy collects whole bodies (nginx: proxy_request_buffering off)"
            )
        return "bodies of uploads pass through as they come"

    def _check_cors(self) -> str:
        headers = {"origin": str(self._origin), "access_control_request_method": "PUT"}
        response = self._get("/file/upload", 200, 204, 403, method="OPTIONS", **headers)
        allowed = response.headers.get("access-control-allow-origin")
        if allowed not in {self._origin, "*"}:
            raise CheckFailed(f"pages of {self._origin} may not use this server: add it to GRIDCAST_ALLOWED_ORIGINS")
        return f"pages of {self._origin} may use this server"


class _Trickle:
    """A source that hands out blocks as they come."""

    can_rewind = False
    fingerprint = ""

    def __init__(self, blocks: Iterator[bytes], size: int) -> None:
        self._blocks = blocks
        self.size: int | None = size

    def read(self, size: int) -> bytes:
        del size
        return next(self._blocks, b"")

    def seek(self, offset: int) -> None:
        del offset

    def check_unchanged(self) -> None:
        """It never changes."""

    def finish_digest(self) -> str:
        return ""

    def close(self) -> None:
        """Nothing is open."""


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
