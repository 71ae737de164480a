"""Listeners: iterators of events that reconnect and resume. The state is in `gridcast._flows.listening`."""

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

from gridcast._flows.effects import TransportFault
from gridcast._flows.listening import ListenSession
from gridcast._flows.responses import error_of
from gridcast._flows.retries import MAX_ATTEMPTS, RETRY_STATUSES, FlowContext, backoff_seconds, unavailable
from gridcast._server_url import ServerUrl
from gridcast._tokens import TokenCache
from gridcast._websocket import AsyncEventSocket, EventSocket, HandshakeRefused, SocketClosed
from gridcast.errors import RequestError, ServerUnavailable, SessionEnded
from gridcast.values import EventGap, ReceivedEvent


class _Reconnects:
    """Decides after each failed handshake whether, and after how long, the next one follows."""

    def __init__(self, context: FlowContext, session: ListenSession) -> None:
        self._context = context
        self._session = session
        self._failures = 0
        self._renewed = False

    def next_delay(self, failure: TransportFault | HandshakeRefused | SocketClosed) -> float:
        """Return the seconds to wait. Before the first connection there are four attempts, later there is no end.

        Raises the error of a refusal that a repetition cannot change.
        """
        self._failures += 1
        if isinstance(failure, SocketClosed):
            delay = self._session.record_close(failure.code, failure.reason)
            if not self._session.was_connected and self._failures >= MAX_ATTEMPTS:
                raise ServerUnavailable("the server closed the connection at once")
            return delay
        response = None
        if isinstance(failure, TransportFault):
            problem: RequestError = unavailable(failure)
        else:
            response = failure.response
            problem = error_of(response)
            if response.status not in RETRY_STATUSES:
                raise problem
        if not self._session.was_connected:
            if self._failures >= MAX_ATTEMPTS:
                raise problem
            return backoff_seconds(self._context, self._failures, response)
        delay = self._session.record_close(None, "")
        if response is not None and "retry-after" in response.headers:
            return max(delay, backoff_seconds(self._context, 1, response))
        return delay

    def should_renew_token(self, failure: HandshakeRefused, tokens: TokenCache) -> bool:
        """Whether a refused token is asked for again: once for each connection."""
        if failure.response.status != 401 or tokens.is_fixed or self._renewed:
            return False
        self._renewed = True
        return True

    def record_open(self) -> None:
        """A connection is open."""
        self._failures = 0
        self._renewed = False


class _ListenerState:
    """What both listeners share."""

    def __init__(
        self, context: FlowContext, session: ListenSession, url: ServerUrl, tokens: TokenCache, user_agent: str
    ) -> None:
        self._session = session
        self._url = url
        self._tokens = tokens
        self._session.renews_tokens = not tokens.is_fixed
        self._user_agent = user_agent
        self._reconnects = _Reconnects(context, session)
        self._waiting: deque[ReceivedEvent | EventGap] = deque()
        self._is_closed = False

    @property
    def sid(self) -> str | None:
        """The address of this client, to which others push; None before `connect`, and another one after some gaps."""
        return self._session.sid

    @property
    def topics(self) -> tuple[str, ...]:
        """The topics that are subscribed."""
        return tuple(self._session.topics)

    def _check_open(self) -> None:
        if self._is_closed:
            raise SessionEnded("the listener is closed")

    def _headers(self, token: str | None) -> dict[str, str]:
        return {} if token is None else {"authorization": f"Bearer {token}"}


class Listener(_ListenerState):
    """An iterator of events. It connects on first use, and resumes its session after every interruption.

    Where events may be missing it yields an EventGap in their place. It ends with SessionEnded, or when it is closed; a server that
    cannot be reached at the beginning is ServerUnavailable after four attempts, later it tries without end. Use it in one thread.
    """

    _socket: EventSocket | None = None

    def connect(self) -> Self:
        """Connect, unless that is done. Then `sid` is known."""
        renew = False
        while self._socket is None:
            self._check_open()
            try:
                headers = self._headers(self._tokens.get(renew=renew))
                self._socket = EventSocket(
                    self._url.websocket + self._session.connect_target(), headers, self._user_agent
                )
                self._waiting.extend(self._session.receive(self._socket.receive()))
                self._reconnects.record_open()
            except (TransportFault, SocketClosed) as failure:
                self._disconnect()
                time.sleep(self._reconnects.next_delay(failure))
            except HandshakeRefused as failure:
                renew = self._reconnects.should_renew_token(failure, self._tokens)
                if not renew:
                    time.sleep(self._reconnects.next_delay(failure))
        return self

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> ReceivedEvent | EventGap:
        while not self._waiting:
            if self._is_closed:
                raise StopIteration
            self.connect()
            if self._waiting or self._socket is None:
                continue
            try:
                self._waiting.extend(self._session.receive(self._socket.receive()))
                if self._session.needs_token:
                    self._send(self._session.token_command(self._tokens.get(renew=True)))
            except SocketClosed as failure:
                if self._is_closed:
                    raise StopIteration from None
                self._disconnect()
                time.sleep(self._reconnects.next_delay(failure))
        return self._waiting.popleft()

    def ack(self, event: ReceivedEvent) -> None:
        """Acknowledge: a sender that waits gets `delivered`."""
        self._send(self._session.command("ack", id=event.id))

    def subscribe(self, topic: str) -> None:
        """Receive the events of a topic as well, over reconnects too. Raises InvalidRequest."""
        self._send(self._session.command("subscribe", topic=topic))

    def unsubscribe(self, topic: str) -> None:
        """Stop receiving the events of a topic."""
        self._send(self._session.command("unsubscribe", topic=topic))

    def _send(self, frame: str) -> None:
        if self._socket is None:
            return  # a handshake names the topics, and an ack of a lost connection has no receiver
        try:
            self._socket.send(frame)
        except SocketClosed:
            return  # the next read reconnects

    def close(self) -> None:
        """Close the connection and end the iteration; another thread may call it."""
        self._is_closed = True
        self._disconnect()

    def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncListener(_ListenerState):
    """An asynchronous iterator of events; see Listener."""

    _socket: AsyncEventSocket | None = None

    async def connect(self) -> Self:
        """Connect, unless that is done. Then `sid` is known."""
        renew = False
        while self._socket is None:
            self._check_open()
            try:
                headers = self._headers(await self._tokens.get_async(renew=renew))
                address = self._url.websocket + self._session.connect_target()
                self._socket = await AsyncEventSocket.open(address, headers, self._user_agent)
                self._waiting.extend(self._session.receive(await self._socket.receive()))
                self._reconnects.record_open()
            except (TransportFault, SocketClosed) as failure:
                await self._disconnect()
                await asyncio.sleep(self._reconnects.next_delay(failure))
            except HandshakeRefused as failure:
                renew = self._reconnects.should_renew_token(failure, self._tokens)
                if not renew:
                    await asyncio.sleep(self._reconnects.next_delay(failure))
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedEvent | EventGap:
        while not self._waiting:
            if self._is_closed:
                raise StopAsyncIteration
            await self.connect()
            if self._waiting or self._socket is None:
                continue
            try:
                self._waiting.extend(self._session.receive(await self._socket.receive()))
                if self._session.needs_token:
                    await self._send(self._session.token_command(await self._tokens.get_async(renew=True)))
            except SocketClosed as failure:
                if self._is_closed:
                    raise StopAsyncIteration from None
                await self._disconnect()
                await asyncio.sleep(self._reconnects.next_delay(failure))
        return self._waiting.popleft()

    async def ack(self, event: ReceivedEvent) -> None:
        """Acknowledge: a sender that waits gets `delivered`."""
        await self._send(self._session.command("ack", id=event.id))

    async def subscribe(self, topic: str) -> None:
        """Receive the events of a topic as well, over reconnects too. Raises InvalidRequest."""
        await self._send(self._session.command("subscribe", topic=topic))

    async def unsubscribe(self, topic: str) -> None:
        """Stop receiving the events of a topic."""
        await self._send(self._session.command("unsubscribe", topic=topic))

    async def _send(self, frame: str) -> None:
        if self._socket is None:
            return  # a handshake names the topics, and an ack of a lost connection has no receiver
        try:
            await self._socket.send(frame)
        except SocketClosed:
            return  # the next read reconnects

    async def aclose(self) -> None:
        """Close the connection and end the iteration."""
        self._is_closed = True
        await self._disconnect()

    async def _disconnect(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()

    async def __aenter__(self) -> Self:
        return await self.connect()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
