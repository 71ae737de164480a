"""The way of one HTTP request: choose a replica, send it on, pass the answer back. Streams both ways.

It decides what is tried again and what a failure is called. It knows neither the HTTP client behind `proxy` nor the routes.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Never, cast

from gateway import headers, reports
from gateway.answers import Unreadable
from gateway.clients import Client
from gateway.heads import Head, head
from gateway.line import Gone, Line
from gateway.progress import SENDING, Exchange, Patience, Waiting, Watch
from gateway.proxy import Broken, HttpClient, Unreachable
from gateway.routes import Route
from gateway.settings import GatewaySettings
from gateway.upstreams import CONNECT_ALL_SECONDS, Replica, Upstream
from services.common import logs
from services.common.errors import BadGateway, GatewayTimeout, GridcastError, TooLarge, Unavailable
from services.common.web import Disconnected, Receive, Scope, Send

MAX_PLAIN_BODY = 1024 * 1024
"""Bytes of a body that is no media."""
LITTLE = 16 * 1024
"""Bytes of an answer that are one piece, however they came."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Body:
    """A request's body as it comes from the client. The service pulls it, so a slow service slows the client down."""

    def __init__(self, head: Head, receive: Receive, exchange: Exchange, limit: int) -> None:
        self.head = head
        self._receive = receive
        self._exchange = exchange
        self._limit = limit
        self._more = True

    async def read(self) -> bytes:
        """The next piece; none at the end."""
        exchange = self._exchange
        while self._more:
            exchange.waiting = Waiting.SENDER
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._stop(Disconnected())
            data: bytes = message.get("body", b"")
            exchange.moved += len(data)
            if exchange.moved > self._limit:
                self._stop(TooLarge(f"the body is longer than {self._limit} bytes"))
            self._more = message.get("more_body", False)
            if data:
                exchange.waiting = Waiting.TAKER
                return data
        exchange.complete = True
        if exchange.waiting in SENDING:  # else the answer came early
            exchange.waiting = Waiting.ANSWER
        return b""

    def _stop(self, verdict: GridcastError | Disconnected) -> Never:
        self._exchange.stop(verdict)
        raise verdict


@dataclass(slots=True)
class Asked:
    """A request on its way. `again`: it may be asked a second time, because nothing can happen twice; `fresh`: it is being."""

    method: str
    head: bytes
    body: Body | None
    again: bool
    fresh: bool = False


class Forward:
    """Answers requests from the services."""

    def __init__(self, settings: GatewaySettings, client: HttpClient, upstreams: Mapping[str, Upstream]) -> None:
        self._settings = settings
        self._client = client
        self._upstreams = upstreams
        self._loop: asyncio.AbstractEventLoop
        self._watch = Watch(Patience(settings.sender_seconds, settings.service_seconds, settings.reader_seconds))

    async def watch(self) -> None:
        """Ends what stalls; runs as long as the process does."""
        await self._watch.run()

    def open(self) -> None:
        """Needs a running event loop. It is kept: Python 3.11 asks the system for the process id each time it is looked up."""
        self._loop = asyncio.get_running_loop()

    async def __call__(self, scope: Scope, receive: Receive, send: Send, route: Route, client: Client) -> None:
        """Answer from `route`'s service. Raises GridcastError; once the answer has begun that means: cut it."""
        method, target, query = scope["method"], scope["raw_path"], scope["query_string"]
        if query:
            target = b"%s?%s" % (target, query)
        asking = head(method, target, scope["headers"], client, logs.request_id.get())
        length = asking.length
        limit = self._settings.max_body if route.media else MAX_PLAIN_BODY
        if length is not None and length > limit:
            raise TooLarge(f"the body is longer than {limit} bytes")
        safe = method in SAFE
        patience = self._settings.store_seconds if route.media and not safe else self._settings.answer_seconds
        task = cast("asyncio.Task[None]", asyncio.current_task(self._loop))
        exchange = Exchange(task, self._loop.time(), patience, complete=length == 0)
        body = None if length == 0 else Body(asking, receive, exchange, limit)
        asked = Asked(method, asking.raw, body, safe and body is None)
        log: dict[str, object] = {}
        scope["log"] = log
        self._watch.begin(exchange, scope["extensions"]["gridcast"].is_alone)
        try:
            await self._pass(self._upstreams[route.service], asked, exchange, send, log)
        except asyncio.CancelledError:
            task.uncancel()
            raise exchange.verdict or Unavailable("the gateway is stopping") from None
        except (Gone, Unreadable) as error:
            if exchange.verdict is not None:
                raise exchange.verdict from None
            raise BadGateway(f"the {route.service} service broke off: {type(error).__name__.lower()}") from error
        finally:
            self._watch.end(exchange)

    async def _pass(
        self, upstream: Upstream, asked: Asked, exchange: Exchange, send: Send, log: dict[str, object]
    ) -> None:
        clock = self._loop.time
        began = clock()
        connecting = 0.0
        tried: list[Replica] = []
        while True:
            replica = upstream.pick(tried)
            if replica is None or connecting > CONNECT_ALL_SECONDS:
                raise BadGateway(f"the {upstream.name} service cannot be reached")
            log["upstream"] = replica.origin
            asked_at = clock()
            with replica:
                try:
                    line = await self._client.ask(
                        asked.method, replica.address, asked.head, asked.body, fresh=asked.fresh
                    )
                except (Unreachable, Gone, Unreadable, asyncio.CancelledError) as error:
                    if _is_fault(error, exchange.verdict):
                        upstream.failed(replica, clock())
                        reports.ejected(upstream, replica, exchange.verdict or error)
                    if isinstance(error, Unreachable):
                        connecting += clock() - asked_at
                    elif isinstance(error, Gone) and asked.again and exchange.verdict is None:
                        # It closed a kept connection while we wrote to it, or died.
                        asked.again, asked.fresh = False, True
                        reports.retried(upstream)
                    else:
                        raise
                    if isinstance(error, Unreachable) or len(upstream.replicas) > 1:
                        tried.append(replica)
                    continue
                upstream.worked(replica)
                log["first_byte"] = round(clock() - began, 6)
                try:
                    await _relay(line, exchange, send)
                finally:
                    line.release()
                return


def _is_fault(error: BaseException, verdict: GridcastError | Disconnected | None) -> bool:
    """Whether it is the replica's. A kept connection that has ended is nobody's."""
    if verdict is None:
        return isinstance(error, Unreachable | Broken | Unreadable)
    return isinstance(verdict, GatewayTimeout) and isinstance(error, asyncio.CancelledError)


async def _relay(line: Line, exchange: Exchange, send: Send) -> None:
    status = line.answer.status
    fields = headers.answer(line.answer.fields, status)
    if not exchange.complete:
        fields.append((b"connection", b"close"))  # answered early: the rest of the body is not wanted
    exchange.waiting = Waiting.READER
    if line.answer.over and line.answer.waiting <= LITTLE:  # all of it is here: one message (services.common.cycle)
        data = await line.read()
        exchange.moved += len(data)
        await send({"type": "http.response.start", "status": status, "headers": fields, "body": data})
        return
    await send({"type": "http.response.start", "status": status, "headers": fields})
    more = True
    while more:
        exchange.waiting = Waiting.SERVICE
        data = await line.read()
        more = not line.ended
        exchange.waiting = Waiting.READER
        exchange.moved += len(data)
        await send({"type": "http.response.body", "body": data, "more_body": more})
