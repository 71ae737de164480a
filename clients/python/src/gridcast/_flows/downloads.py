"""Flow of a download: one stream that continues where it broke off, of one version, with its digest compared at the end."""

from gridcast._flows.effects import (
    CloseStream,
    DownloadTarget,
    Flow,
    HttpRequest,
    HttpResponse,
    ReadStream,
    Sleep,
    TransportFault,
    call,
)
from gridcast._flows.remote_path import file_target
from gridcast._flows.responses import error_of, parse_length, parse_sha256, unexpected
from gridcast._flows.retries import RETRY_STATUSES, FlowContext, OutageTimer, send, send_once, unavailable
from gridcast.errors import RequestError
from gridcast.values import ProgressCallback, TransferProgress, TransferState


class DownloadFlow:
    """One download. `progress` is called with the bytes that are in the target."""

    def __init__(
        self, context: FlowContext, path: str, target: DownloadTarget, progress: ProgressCallback | None
    ) -> None:
        self._context = context
        self._path = path
        self._target = target
        self._progress = progress
        self._offset = 0
        self._length = 0
        self._etag = ""
        self._sha256: str | None = None

    def run(self) -> Flow[str]:
        """Return the ETag of the version that is now in the target."""
        head = HttpRequest("HEAD", file_target(self._path), {"cache-control": "no-cache"})
        yield from self._begin((yield from send(self._context, head, accepted={200})))
        timer = OutageTimer(self._context)
        while self._offset < self._length:
            response: HttpResponse | None = None
            try:
                response = yield from send_once(self._request(), is_stream=True)
                problem = yield from self._receive(response, timer)
            except TransportFault as fault:
                problem = unavailable(fault)
            finally:
                yield CloseStream()
            if problem is not None:
                yield Sleep(timer.next_delay(problem, response))
        self._report("verifying")
        yield from call(lambda: self._target.finish(self._sha256))
        self._report("done")
        return self._etag

    def _request(self) -> HttpRequest:
        headers: dict[str, str] = {}
        if self._offset:
            headers = {"range": f"bytes={self._offset}-", "if-range": self._etag}
        return HttpRequest("GET", file_target(self._path), headers)

    def _receive(self, response: HttpResponse, timer: OutageTimer) -> Flow[RequestError | None]:
        """Copy the body to the target. Returns the problem after which another attempt is due, None if there is none."""
        if response.status in RETRY_STATUSES:
            return error_of(response)
        if response.status not in {200, 206}:
            raise error_of(response)
        if response.status == 200:
            if self._offset or response.headers.get("etag") != self._etag:  # If-Range did not hold: another version
                yield from self._begin(response)
                if self._offset:
                    return None
        elif not response.headers.get("content-range", "").startswith(f"bytes {self._offset}-"):
            raise unexpected(response, "the server sent another range than the one asked for")
        while data := (yield ReadStream()):
            if self._offset + len(data) > self._length:
                raise unexpected(response, "the server sent more bytes than the file has")
            yield from call(lambda data=data: self._target.write(data))  # type: ignore[misc]
            self._offset += len(data)
            timer.record_progress()
            self._report("transferring")
        if self._offset < self._length:
            return unavailable(TransportFault("the response ended early"))
        return None

    def _begin(self, response: HttpResponse) -> Flow[None]:
        """Prepare the target for the version that a response describes."""
        etag = response.headers.get("etag", "")
        if not etag.startswith('"'):
            raise unexpected(response, "the response has no strong ETag: is there a Gridcast at this URL?")
        length = parse_length(response, "content-length")
        self._offset = yield from call(lambda: self._target.begin(etag, length))
        self._etag, self._length, self._sha256 = etag, length, parse_sha256(response)
        self._report("transferring")

    def _report(self, state: TransferState) -> None:
        if self._progress is not None:
            self._progress(TransferProgress(state, self._offset, self._offset, self._length))
