"""When a request is repeated: only where that is safe, with exponential backoff and jitter, and as Retry-After says."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from gridcast._flows.effects import (
    Flow,
    GetToken,
    HttpRequest,
    HttpResponse,
    OpenStream,
    Send,
    Sleep,
    TransportFault,
    call,
)
from gridcast._flows.responses import error_of
from gridcast.errors import RequestError, ServerUnavailable

MAX_ATTEMPTS = 4
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 8.0
MAX_RETRY_AFTER_SECONDS = 120.0
RETRY_STATUSES = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class FlowContext:
    """What flows need of the outside: a clock in seconds, a random number in [0, 1), and how long a transfer may stand still.

    A transfer that has had no progress for `outage_seconds` fails; until then it tries again.
    """

    clock: Callable[[], float]
    random: Callable[[], float]
    outage_seconds: float


def backoff_seconds(context: FlowContext, failures: int, response: HttpResponse | None = None) -> float:
    """Return the delay after a number of consecutive failures, from 1 on: doubled each time, up to a quarter less by chance."""
    given = response.headers.get("retry-after", "") if response else ""
    if given.isascii() and given.isdigit() and len(given) < 9:
        return min(float(given), MAX_RETRY_AFTER_SECONDS)
    delay = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 16), MAX_DELAY_SECONDS)
    return delay * (1 - context.random() / 4)


def unavailable(fault: TransportFault) -> ServerUnavailable:
    """Return the error that a fault of the transport becomes after the last attempt."""
    return ServerUnavailable(str(fault))


def send_once(request: HttpRequest, *, is_stream: bool = False) -> Flow[HttpResponse]:
    """Send with the token; where the server refuses it, once more with a renewed one. Raises TransportFault.

    A request that reads its body from a source that cannot rewind is not repeated: the bytes are gone.
    """
    token: str | None = yield GetToken()
    response: HttpResponse = yield _effect(request, token, is_stream=is_stream)
    source = request.source
    if response.status == 401 and token is not None and (source is None or source.can_rewind):
        renewed: str | None = yield GetToken(renew=True)
        if renewed != token:
            if source is not None:
                yield from call(lambda: source.seek(0))
            response = yield _effect(request, renewed, is_stream=is_stream)
    return response


def _effect(request: HttpRequest, token: str | None, *, is_stream: bool) -> Send | OpenStream:
    if token is not None:
        request = replace(request, headers={**request.headers, "authorization": f"Bearer {token}"})
    return OpenStream(request) if is_stream else Send(request)


def send(
    context: FlowContext,
    request: HttpRequest,
    *,
    accepted: Collection[int],
    is_repeatable: bool = True,
    failed: list[RequestError] | None = None,
) -> Flow[HttpResponse]:
    """Send until a status of `accepted` comes, at most four times.

    `is_repeatable` says that a repetition has the same effect as one request (RFC 9110, 9.2.2). Others are repeated only where no
    byte of them was sent. The problems of attempts before the last one are appended to `failed`. Raises the RequestError of any
    other status.
    """
    failures = 0
    while True:
        response = None
        try:
            response = yield from send_once(request)
        except TransportFault as fault:
            problem: RequestError = unavailable(fault)
            may_repeat = is_repeatable or not fault.is_sent
        else:
            if response.status in accepted:
                return response
            problem = error_of(response)
            may_repeat = is_repeatable and response.status in RETRY_STATUSES
        failures += 1
        if failed is not None:
            failed.append(problem)
        if not may_repeat or failures >= MAX_ATTEMPTS:
            raise problem
        yield Sleep(backoff_seconds(context, failures, response))


class OutageTimer:
    """Counts consecutive failures of one transfer, and ends it when nothing has moved for too long."""

    def __init__(self, context: FlowContext) -> None:
        self._context = context
        self.failures = 0
        self._moved_at = context.clock()

    def record_progress(self) -> None:
        """Bytes have moved."""
        self.failures = 0
        self._moved_at = self._context.clock()

    def next_delay(self, problem: RequestError, response: HttpResponse | None = None) -> float:
        """Return the seconds to wait before the next attempt. Raises `problem` where the transfer has stood still for too long."""
        self.failures += 1
        delay = backoff_seconds(self._context, self.failures, response)
        if self._context.clock() + delay - self._moved_at > self._context.outage_seconds:
            raise problem
        return delay
