"""A model of the server in memory for flows of the client: it performs their effects, and injects faults where a test says so."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from gridcast._flows.effects import (
    CloseStream,
    Effect,
    Flow,
    GetToken,
    HttpRequest,
    HttpResponse,
    Local,
    OpenStream,
    ReadSource,
    ReadStream,
    Send,
    Sleep,
    TransportFault,
)
from gridcast._flows.retries import FlowContext

T = TypeVar("T")
STREAM_BLOCK = 1000
FaultName = str
"""none, refused, lost (the request took effect, its response was lost), cut (half of the body took effect), 503, 429."""


def etag_of(content: bytes) -> str:
    return f'"sha256-{hashlib.sha256(content).hexdigest()}"'


def problem(status: int, detail: str, **headers: str) -> HttpResponse:
    body = f'{{"type":"about:blank","title":"t","status":{status},"detail":"{detail}"}}'.encode()
    return HttpResponse(status, {"x-request-id": "r1", **headers}, body)


@dataclass
class ModelServer:
    """Files and unfinished uploads. `faults` gives the fault of each request; `now` moves with every Sleep."""

    faults: Iterator[FaultName] = field(default_factory=lambda: iter(()))
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, tuple[str, int | None, bytearray]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    """The content of complete uploads, by address."""
    now: float = 0.0
    sleeps: list[float] = field(default_factory=list)
    requests: list[HttpRequest] = field(default_factory=list)
    sent_bytes: int = 0
    tokens: Iterator[str] | None = None
    on_request: Callable[["ModelServer", HttpRequest], HttpResponse | None] = lambda _server, _request: None
    _stream: bytes = b""
    _stream_ends_early: bool = False

    def context(self, outage_seconds: float = 60.0) -> FlowContext:
        return FlowContext(lambda: self.now, lambda: 0.0, outage_seconds)

    def run(self, flow: Flow[T]) -> T:
        """Run a flow to its end."""
        try:
            effect = next(flow)
            while True:
                try:
                    result = self._perform(effect)
                except Exception as error:  # noqa: BLE001 - as the shells do
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Send():
                return self._with_fault(effect.request)
            case OpenStream():
                response = self._with_fault(effect.request, streams=True)
                if response.status in {200, 206}:
                    self._stream = response.body
                    return HttpResponse(response.status, response.headers)
                return response
            case ReadStream():
                block, self._stream = self._stream[:STREAM_BLOCK], self._stream[STREAM_BLOCK:]
                if not block and self._stream_ends_early:
                    raise TransportFault("the connection was lost")
                return block
            case CloseStream():
                self._stream = b""
            case ReadSource():
                return effect.source.read(effect.size)  # type: ignore[attr-defined]
            case Local():
                return effect.function()
            case Sleep():
                self.sleeps.append(effect.seconds)
                self.now += effect.seconds
            case GetToken():
                return next(self.tokens) if self.tokens is not None else None
        return None

    def _with_fault(self, request: HttpRequest, *, streams: bool = False) -> HttpResponse:
        self.requests.append(request)
        fault = next(self.faults, "none")
        self._stream_ends_early = streams and fault == "cut"
        if fault == "refused":
            raise TransportFault("the server could not be reached", is_sent=False)
        if fault in {"503", "429"}:
            return problem(int(fault), "later", **{"retry-after": "3"})
        if (answer := self.on_request(self, request)) is not None:
            return answer
        if fault == "cut" and not streams:
            self._answer(request, cut=True)
            raise TransportFault("the connection was lost")
        response = self._answer(request)
        if fault == "lost":
            raise TransportFault("the connection was lost")
        if fault == "cut":
            return HttpResponse(response.status, response.headers, response.body[: len(response.body) // 2])
        return response

    def _answer(self, request: HttpRequest, *, cut: bool = False) -> HttpResponse:
        parts = urlsplit(request.target)
        path = unquote(parts.path)
        if path.startswith("/file/tus"):
            return self._answer_tus(request, path, cut=cut)
        if path == "/file/info":
            query = parse_qs(parts.query, keep_blank_values=True)
            folder, filename = query.get("folder", [""])[0], query["filename"][0]
            return self._describe(f"{folder}/{filename}" if folder else filename, 200)
        name = path.removeprefix("/files/")
        self.sent_bytes += len(request.body)
        if request.method == "PUT":
            if request.headers.get("if-none-match") == "*" and name in self.files:
                return problem(412, "precondition failed")
            if cut:
                return problem(400, "cut")
            self.files[name] = request.body
            return self._describe(name, 201)
        if name not in self.files:
            return problem(404, "file not found")
        content = self.files[name]
        if request.method == "DELETE":
            del self.files[name]
            return HttpResponse(204, {})
        return self._read(request, content)

    def _read(self, request: HttpRequest, content: bytes) -> HttpResponse:
        headers = {"etag": etag_of(content), "content-length": str(len(content))}
        if request.method == "HEAD":
            return HttpResponse(200, headers)
        if request.headers.get("if-match", headers["etag"]) != headers["etag"]:
            return problem(412, "precondition failed")
        wanted = request.headers.get("range")
        if wanted is None or request.headers.get("if-range", headers["etag"]) != headers["etag"]:
            return HttpResponse(200, headers, content)
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)) + 1, len(content))
        headers |= {"content-range": f"bytes {start}-{end - 1}/{len(content)}", "content-length": str(end - start)}
        return HttpResponse(206, headers, content[start:end])

    def _answer_tus(self, request: HttpRequest, path: str, *, cut: bool) -> HttpResponse:
        if request.method == "POST":
            name = "/".join(filter(None, (_key(request.headers, "folder"), _key(request.headers, "filename"))))
            if name in self.files:
                return problem(409, "Not Unique: the name is taken")
            length = request.headers.get("upload-length")
            address = f"/file/tus/u{len(self.uploads) + len(self.stored)}"
            self.uploads[address] = (name, None if length is None else int(length), bytearray())
            return self._finish(address, {"location": address}, 201)
        if path in self.stored:
            return HttpResponse(200, {"upload-offset": str(len(self.stored[path])), "etag": etag_of(self.stored[path])})
        if path not in self.uploads:
            return problem(404, "no such upload")
        name, _expected, received = self.uploads[path]
        if request.method == "HEAD":
            return HttpResponse(200, {"upload-offset": str(len(received))})
        if request.method == "DELETE":
            del self.uploads[path]
            return HttpResponse(204, {})
        if int(request.headers["upload-offset"]) != len(received):
            return problem(409, "another offset", **{"upload-offset": str(len(received))})
        self.sent_bytes += len(request.body)
        received += request.body[: len(request.body) // 2] if cut else request.body
        if "upload-length" in request.headers:
            self.uploads[path] = (name, int(request.headers["upload-length"]), received)
        return self._finish(path, {"upload-offset": str(len(received))}, 204)

    def _finish(self, address: str, headers: dict[str, str], status: int) -> HttpResponse:
        name, length, received = self.uploads[address]
        if length is not None and len(received) == length:
            if name in self.files:
                return problem(410, "Not Unique: the name is taken")
            self.files[name] = self.stored[address] = bytes(received)
            del self.uploads[address]
            headers["etag"] = etag_of(bytes(received))
        return HttpResponse(status, headers)

    def _describe(self, name: str, status: int) -> HttpResponse:
        if name not in self.files:
            return problem(404, "file not found")
        content = self.files[name]
        folder, _, filename = name.rpartition("/")
        digest = hashlib.sha256(content).hexdigest()
        body = (
            f'{{"id":"1","folder":"{folder}","filename":"{filename}","length":{len(content)},"content_type":"a/b",'
            f'"sha256":"{digest}","etag":"\\"sha256-{digest}\\"","uploaded_at":"2026-11-28T00:00:00+00:00",'
            f'"metadata":{{}},"revision":1,"unknown":true}}'
        )
        return HttpResponse(status, {}, body.encode())


def _key(headers: Mapping[str, str], name: str) -> str:
    for pair in headers["upload-metadata"].split(","):
        key, _, value = pair.partition(" ")
        if key == name:
            return base64.b64decode(value).decode()
    return ""
