"""Flows for live streams: make, describe, end, and send one over tus with a length that is not known yet."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from gridcast._flows.effects import (
    JSON_HEADERS,
    Flow,
    HttpRequest,
    HttpResponse,
    ReadSource,
    Send,
    Sleep,
    TransportFault,
)
from gridcast._flows.remote_path import split_path, with_query
from gridcast._flows.responses import error_of, parse_json, parse_length, unexpected
from gridcast._flows.retries import RETRY_STATUSES, FlowContext, OutageTimer, send, unavailable
from gridcast._flows.tus_transfer import PATCH_TIMEOUT_SECONDS, TUS_CONTENT_TYPE, TUS_HEADERS
from gridcast.errors import InvalidRequest, RequestError, ServerUnavailable
from gridcast.values import LiveInfo, LiveMessage, NewLive, ProgressCallback, TransferProgress

STREAMS_PER_PAGE = 200
LIVE_PART_BYTES = 1024 * 1024


class LiveBytes(Protocol):
    """Where the bytes of a publisher come from: `read` waits for the first byte and returns b"" at the end."""

    def read(self, size: int) -> bytes: ...


def make_stream(context: FlowContext, origin: str, path: str, options: Mapping[str, Any]) -> Flow[NewLive]:
    """Make a stream whose file will be at `path`. Not repeated: its name would be taken by the first attempt."""
    folder, filename = split_path(path)
    given = {name: value for name, value in options.items() if value is not None}
    body = json.dumps({"folder": folder, "filename": filename, **given}).encode()
    response = yield from send(
        context, HttpRequest("POST", "/live", JSON_HEADERS, body), accepted={201}, is_repeatable=False
    )
    document = parse_json(response)
    try:
        return NewLive(
            id=str(document["id"]),
            path=path,
            publish_token=str(document["publish_token"]),
            playlist=origin + str(document["playlist"]),
            media=origin + str(document["media"]),
            objects=origin + str(document["objects"]),
            tus=origin + str(document["tus"]),
            limits=dict(document["limits"]),
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no live stream") from None


def get_stream(context: FlowContext, origin: str, stream_id: str) -> Flow[LiveInfo]:
    """Describe a stream."""
    response = yield from send(context, HttpRequest("GET", _target(stream_id)), accepted={200})
    return _parse_stream(response, parse_json(response), origin)


def list_streams(
    context: FlowContext, origin: str, state: str | None, after: str | None
) -> Flow[tuple[Sequence[LiveInfo], str | None]]:
    """Return one page of streams, and the `after` of the next page."""
    target = with_query("/live", state=state, after=after, limit=STREAMS_PER_PAGE)
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    document = parse_json(response)
    found = document.get("streams")
    if not isinstance(found, list):
        raise unexpected(response, "the response lists no streams")
    return [_parse_stream(response, one, origin) for one in found], document.get("next")


def end_stream(context: FlowContext, origin: str, stream_id: str) -> Flow[LiveInfo]:
    """End a stream; what came is its file."""
    response = yield from send(context, HttpRequest("POST", f"{_target(stream_id)}/end"), accepted={200})
    return _parse_stream(response, parse_json(response), origin)


def discard_stream(context: FlowContext, stream_id: str) -> Flow[None]:
    """Throw a stream away with all that came."""
    yield from send(context, HttpRequest("DELETE", _target(stream_id)), accepted={204})


def push_message(context: FlowContext, stream_id: str, message: Mapping[str, Any]) -> Flow[LiveMessage]:
    """Push a message and keep it with its media time. Repeated only with an id: it is kept once then."""
    body = json.dumps({name: value for name, value in message.items() if value is not None})
    request = HttpRequest("POST", f"{_target(stream_id)}/messages", JSON_HEADERS, body.encode())
    response = yield from send(context, request, accepted={200, 201}, is_repeatable=message.get("id") is not None)
    return _parse_message(response, parse_json(response))


def list_messages(
    context: FlowContext, stream_id: str, start: float, end: float | None, after: str | None
) -> Flow[tuple[Sequence[LiveMessage], str | None]]:
    """Return one page of messages, and the `after` of the next page."""
    until = None if end is None else f"{end:.3f}"
    target = with_query(f"{_target(stream_id)}/messages", **{"from": f"{start:.3f}", "to": until, "after": after})
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    document = parse_json(response)
    found = document.get("messages")
    if not isinstance(found, list):
        raise unexpected(response, "the response lists no messages")
    return [_parse_message(response, one) for one in found], document.get("next")


class LivePublisher:
    """Sends the bytes of one source, which is fragmented MP4. What the server has not acknowledged is kept and sent again."""

    def __init__(
        self,
        context: FlowContext,
        stream_id: str,
        publish_token: str,
        source: LiveBytes,
        progress: ProgressCallback | None,
    ) -> None:
        self._context = context
        self._address = f"{_target(stream_id)}/tus"
        self._credential = {**TUS_HEADERS, "authorization": f"Bearer {publish_token}"}
        self._source = source
        self._report: Callable[[TransferProgress], object] = progress or (lambda _progress: None)
        self._offset = 0
        self._unacknowledged = b""
        self._has_ended = False

    def run(self, *, end: bool) -> Flow[None]:
        """Send until the source ends; with `end` the stream ends with it.

        Raises NameConflict where another publisher has replaced this one, FileMissing where the stream has ended,
        ServerUnavailable where the server was away for too long.
        """
        timer = OutageTimer(self._context)
        response = yield from self._repeat(timer, self._begin_request)
        location = response.headers.get("location", "")
        if not location.startswith(self._address):
            raise unexpected(response, "the response names no address of the source")
        self._address = location
        while not self._has_ended or self._unacknowledged:
            if not self._unacknowledged:
                # None of the store's protocols: a live source has no length and cannot rewind.
                self._unacknowledged = yield ReadSource(self._source, LIVE_PART_BYTES)  # type: ignore[arg-type]
                self._has_ended = not self._unacknowledged
            if self._unacknowledged or end:
                yield from self._send_part(timer, is_last=self._has_ended and end)
            if self._has_ended and not self._unacknowledged:
                return

    def _begin_request(self) -> HttpRequest:
        return HttpRequest("POST", self._address, {**self._credential, "upload-defer-length": "1"})

    def _send_part(self, timer: OutageTimer, *, is_last: bool) -> Flow[None]:
        """Send what is not acknowledged, and learn how much of it is."""
        while True:
            part = self._unacknowledged
            headers = {**self._credential, "content-type": TUS_CONTENT_TYPE, "upload-offset": str(self._offset)}
            if is_last:
                headers["upload-length"] = str(self._offset + len(part))
            request = HttpRequest("PATCH", self._address, headers, part, timeout=PATCH_TIMEOUT_SECONDS)
            problem: RequestError
            response: HttpResponse | None = None
            try:
                response = yield Send(request)
            except TransportFault as fault:
                problem = unavailable(fault)
            else:
                if response.status == 204:
                    self._acknowledge(response)
                    timer.record_progress()
                    return
                problem = error_of(response)
                has_offset = response.status == 409 and "upload-offset" in response.headers
                if response.status not in RETRY_STATUSES and not has_offset:
                    raise problem
            yield Sleep(timer.next_delay(problem, response))
            answer = yield from self._repeat(timer, lambda: HttpRequest("HEAD", self._address, self._credential))
            self._acknowledge(answer)

    def _acknowledge(self, response: HttpResponse) -> None:
        offset = parse_length(response, "upload-offset")
        if offset < self._offset:
            raise ServerUnavailable("the server has lost bytes that it had acknowledged")
        if offset > self._offset + len(self._unacknowledged):
            raise unexpected(response, "the server is at an offset that was not sent")
        self._unacknowledged = self._unacknowledged[offset - self._offset :]
        self._offset = offset
        self._report(TransferProgress("transferring", offset + len(self._unacknowledged), offset, None))

    def _repeat(self, timer: OutageTimer, request: Callable[[], HttpRequest]) -> Flow[HttpResponse]:
        """Send a request until it succeeds."""
        while True:
            response: HttpResponse | None = None
            try:
                response = yield Send(request())
            except TransportFault as fault:
                problem: RequestError = unavailable(fault)
            else:
                if response.status in {200, 201}:
                    return response
                problem = error_of(response)
                if response.status not in RETRY_STATUSES:
                    raise problem
            yield Sleep(timer.next_delay(problem, response))


def _target(stream_id: str) -> str:
    if not stream_id.isalnum() or not stream_id.isascii():
        raise InvalidRequest("the id of a live stream consists of letters and digits")
    return f"/live/{stream_id}"


def _parse_message(response: HttpResponse, document: Mapping[str, Any]) -> LiveMessage:
    try:
        return LiveMessage(
            id=str(document["message"]),
            type=str(document["type"]),
            time=float(document["time"]),
            epoch=int(document["epoch"]),
            date=str(document["date"]),
            data=document.get("data"),
            duplicate=bool(document.get("duplicate")),
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no message") from None


def _parse_stream(response: HttpResponse, document: Mapping[str, Any], origin: str) -> LiveInfo:
    try:
        folder, filename = str(document["folder"]), str(document["filename"])
        return LiveInfo(
            id=str(document["id"]),
            state=document["state"],
            title=str(document["title"]),
            path=f"{folder}/{filename}" if folder else filename,
            owner=document.get("owner"),
            duration=float(document["duration"]),
            bytes=int(document["bytes"]),
            segments=int(document["segments"]),
            playlist=origin + str(document["playlist"]),
            reason=document.get("reason"),
            viewers=document.get("viewers"),
        )
    except (KeyError, TypeError, ValueError):
        raise unexpected(response, "the response describes no live stream") from None
