"""Transfer of one tus upload: PATCH after PATCH, and HEAD after each interruption (tus 1.0.0, "Core Protocol").

The source is read in parts, and the one under way is kept, so that a stream that cannot rewind can send it again.
"""

from collections.abc import Callable

from gridcast._flows.effects import ByteSource, Flow, HttpRequest, HttpResponse, ReadSource, Sleep, TransportFault, call
from gridcast._flows.responses import error_of, parse_length, unexpected
from gridcast._flows.retries import RETRY_STATUSES, FlowContext, OutageTimer, send, send_once, unavailable
from gridcast.errors import FileMissing, NameConflict, RequestError, ServerUnavailable, SourceChanged
from gridcast.values import TransferState

TUS_HEADERS = {"tus-resumable": "1.0.0"}
TUS_CONTENT_TYPE = "application/offset+octet-stream"
PATCH_TIMEOUT_SECONDS = 60.0
LAST_PATCH_TIMEOUT_SECONDS = 920.0
"""The last PATCH stores the file, for which the service may have to read it back: the gateway waits 900 s."""

Report = Callable[[TransferState, int, int, int | None], None]


class PartReader:
    """The bytes of a source from any position that is in memory, or that the source can rewind to."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._start = 0
        self._kept = memoryview(b"")  # sliced without a copy: a stream may have 16 MiB here
        self._has_ended = False

    def peek(self, size: int) -> Flow[bytes]:
        """Return the next bytes without consuming them: `size`, and fewer only at the end."""
        yield from self._fill(size)
        return _to_bytes(self._kept[:size])

    def part(self, offset: int, size: int) -> Flow[tuple[bytes, bool]]:
        """Return the bytes from `offset` on, at most `size`, and whether the source ends with them.

        Raises:
            ServerUnavailable: the position is neither in memory nor can the source rewind to it.

        """
        if not self._start <= offset <= self._start + len(self._kept):
            if not self._source.can_rewind:
                raise ServerUnavailable("the server has lost bytes of a stream that cannot be read again")
            yield from call(lambda: self._source.seek(offset))
            self._start, self._kept, self._has_ended = offset, memoryview(b""), False
        self._kept = self._kept[offset - self._start :]
        self._start = offset
        # One byte more shows whether this is the last part, where the length is not known.
        yield from self._fill(size + (self._source.size is None))
        part = _to_bytes(self._kept[:size])
        size_known = self._source.size
        if size_known is not None and self._has_ended and offset + len(part) < size_known:
            raise SourceChanged("the source ended before its length")
        is_last = (
            self._has_ended and len(self._kept) <= size if size_known is None else offset + len(part) >= size_known
        )
        return part, is_last

    def _fill(self, size: int) -> Flow[None]:
        missing = size - len(self._kept)
        if self._source.size is not None:
            missing = min(missing, self._source.size - self._start - len(self._kept))
        if missing <= 0 or self._has_ended:
            return
        data: bytes = yield ReadSource(self._source, missing)
        self._has_ended = len(data) < missing
        self._kept = memoryview(b"".join((self._kept, data)) if self._kept else data)


def _to_bytes(view: memoryview) -> bytes:
    """Return the bytes of a view: those that it is a view of, where it is one of all."""
    return view.obj if isinstance(view.obj, bytes) and len(view.obj) == len(view) else bytes(view)


class TusTransfer:
    """Sends the bytes of one upload. `offset` is the durable offset; `total` in bytes, None where it is not known yet."""

    def __init__(self, context: FlowContext, address: str, total: int | None, report: Report) -> None:
        self._context = context
        self._address = address
        self._total = total
        self._report = report
        self._final: HttpResponse | None = None
        self.offset = 0

    def complete(self, response: HttpResponse) -> None:
        """The file is stored already, as this response says."""
        self._final = response

    def run(self, reader: PartReader, part_bytes: int) -> Flow[HttpResponse]:
        """Send everything from the offset on, and return the response with the ETag of the stored file.

        Raises FileMissing where the server has no such upload any more, NameConflict where its name was taken.
        """
        timer = OutageTimer(self._context)
        self._report("transferring", self.offset, self.offset, self._total)
        while self._final is None:
            # Parts end at multiples of their size, also behind an interruption.
            part, is_last = yield from reader.part(self.offset, part_bytes - self.offset % part_bytes)
            problem, response = yield from self._patch(part, is_last=is_last, timer=timer)
            while problem is not None:  # the offset is known before anything is sent again
                yield Sleep(timer.next_delay(problem, response))
                before = self.offset
                try:
                    is_found = yield from self.find_offset()
                except RequestError as error:
                    if error.status is not None and error.status not in RETRY_STATUSES:
                        raise
                    problem, response = error, None
                    continue
                if not is_found:
                    raise FileMissing("the server has no such upload any more", status=404)
                if self.offset > before:
                    timer.record_progress()
                problem = None
        return self._final

    def _patch(
        self, part: bytes, *, is_last: bool, timer: OutageTimer
    ) -> Flow[tuple[RequestError | None, HttpResponse | None]]:
        """Send one part. Returns the problem after which the offset is to be asked for; raises what repeating cannot help."""
        headers = {**TUS_HEADERS, "content-type": TUS_CONTENT_TYPE, "upload-offset": str(self.offset)}
        if is_last and self._total is None:
            headers["upload-length"] = str(self.offset + len(part))
        timeout = LAST_PATCH_TIMEOUT_SECONDS if is_last else PATCH_TIMEOUT_SECONDS
        self._report("transferring", self.offset + len(part), self.offset, self._total)
        try:
            response = yield from send_once(HttpRequest("PATCH", self._address, headers, part, timeout=timeout))
        except TransportFault as fault:
            return unavailable(fault), None
        if response.status == 204:
            offset = parse_length(response, "upload-offset")
            if not self.offset <= offset <= self.offset + len(part):
                raise unexpected(response, "the server is at an offset that was not sent")
            if offset == self.offset and not (is_last and "etag" in response.headers):
                return unexpected(response, "the server accepted nothing of a part"), response
            timer.record_progress()
            self.offset = offset
            if is_last and "etag" in response.headers:
                self._final = response
            self._report("transferring", self.offset, self.offset, self._total)
            return None, response
        if response.status in RETRY_STATUSES or (response.status == 409 and "upload-offset" in response.headers):
            return error_of(response), response
        raise _upload_error(response)

    def find_offset(self) -> Flow[bool]:
        """Ask for the durable offset. Returns False where the upload is not there any more."""
        request = HttpRequest("HEAD", self._address, TUS_HEADERS)
        response: HttpResponse = yield from send(self._context, request, accepted={200, 404, 410})
        if response.status != 200:
            return False
        self.offset = parse_length(response, "upload-offset")
        if "etag" in response.headers:
            self._final = response
        return True

    def terminate(self) -> Flow[None]:
        """Delete the upload on the server; a failure is ignored, because it expires by itself."""
        try:
            yield from send_once(HttpRequest("DELETE", self._address, TUS_HEADERS))
        except TransportFault:
            return


def _upload_error(response: HttpResponse) -> RequestError:
    problem = error_of(response)
    if response.status == 410 and "Not Unique" in problem.detail:
        return NameConflict(problem.detail, status=410, request_id=problem.request_id)
    return problem
