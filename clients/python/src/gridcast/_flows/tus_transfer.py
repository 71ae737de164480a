"""Transfer of one tus upload: PATCH after PATCH, and HEAD after each interruption (tus 1.0.0, "Core Protocol")."""

from collections.abc import Callable

from gridcast._flows.effects import Flow, HttpRequest, HttpResponse, Sleep, TransportFault
from gridcast._flows.part_reader import PartReader
from gridcast._flows.responses import error_of, parse_length, unexpected
from gridcast._flows.retries import RETRY_STATUSES, FlowContext, OutageTimer, send, send_once, unavailable
from gridcast.errors import FileMissing, NameConflict, RequestError
from gridcast.values import TransferState

TUS_HEADERS = {"tus-resumable": "1.0.0"}
TUS_CONTENT_TYPE = "application/offset+octet-stream"
PATCH_TIMEOUT_SECONDS = 60.0
LAST_PATCH_TIMEOUT_SECONDS = 920.0
"""The last PATCH stores the file, for which the service may have to read it back: the gateway waits 900 s."""

Report = Callable[[TransferState, int, int, int | None], None]


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
            part, is_last = yield from reader.part(self.offset, part_bytes)
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
