"""The asynchronous client: the same operations as Client, whose docstrings it shares."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from gridcast._async_shell import AsyncShell
from gridcast._client import Client
from gridcast._flows import live, single_requests
from gridcast._local.sources import LiveSource, open_async_source
from gridcast._local.targets import open_target
from gridcast._operations import (
    DEFAULT_OUTAGE_SECONDS,
    DEFAULT_TIMEOUT_SECONDS,
    Operations,
    PathArgument,
    UploadSource,
    documented_as,
    upload_options,
    user_agent,
)
from gridcast._remote_file import AsyncRemoteFile
from gridcast._tokens import AsyncToken, TokenCache
from gridcast._transport import AsyncHttpTransport
from gridcast.values import (
    DeliveryInfo,
    EndpointInfo,
    FileInfo,
    LiveInfo,
    LiveMessage,
    NewLive,
    ProgressCallback,
    PushReceipt,
    RevocationReceipt,
    ServerVersion,
    SignedLink,
)

if TYPE_CHECKING:
    from gridcast._listener import AsyncListener


@documented_as(Client)
class AsyncClient:
    """A client of one server for asyncio, with the arguments, methods and errors of Client. Tasks may share it, and it keeps
    connections until `aclose`. `token` may also be an asynchronous function.
    """

    def __init__(
        self,
        url: str,
        token: AsyncToken = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        outage_seconds: float = DEFAULT_OUTAGE_SECONDS,
    ) -> None:
        self._operations = Operations(url, timeout, outage_seconds)
        self._tokens = TokenCache(token)
        self._transport = AsyncHttpTransport(self._operations.url, timeout, user_agent())
        self._shell = AsyncShell(self._transport, self._tokens)

    @property
    def url(self) -> str:
        """The origin of the server."""
        return self._operations.url.origin

    async def upload(
        self,
        source: UploadSource | AsyncIterable[bytes],
        path: str,
        *,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
        replace: bool = False,
        size: int | None = None,
        state: PathArgument | None = None,
        sid: str | None = None,
        part_bytes: int | None = None,
        progress: ProgressCallback | None = None,
    ) -> FileInfo:
        options = upload_options(content_type, metadata, sid, part_bytes, replace=replace)
        opened = await asyncio.to_thread(open_async_source, source, size)
        try:
            return await self._shell.run(self._operations.upload(opened, path, options, state, progress))
        finally:
            opened.close()

    async def download(
        self, path: str, target: PathArgument | BinaryIO, *, progress: ProgressCallback | None = None
    ) -> str:
        opened = await asyncio.to_thread(open_target, target)
        try:
            return await self._shell.run(self._operations.download(path, opened, progress))
        finally:
            opened.close()

    async def open(self, path: str) -> AsyncRemoteFile:
        """Return a file as a seekable object whose `read` is awaited and fetches ranges. Close this client last."""
        info = await self.info(path)
        return AsyncRemoteFile(info, lambda start, size: self._shell.run(self._operations.range(info, start, size)))

    async def info(self, path: str) -> FileInfo:
        return await self._shell.run(self._operations.info(path))

    async def files(self, folder: str | None = None, *, query: str = "") -> AsyncIterator[FileInfo]:
        context = self._operations.context
        async for one in self._shell.pages(lambda after: single_requests.list_files(context, folder, query, after)):
            yield one

    async def folders(self) -> AsyncIterator[str]:
        context = self._operations.context
        async for one in self._shell.pages(lambda after: single_requests.list_folders(context, after)):
            yield one

    async def remove(self, path: str, *, etag: str | None = None) -> None:
        await self._shell.run(single_requests.remove_file(self._operations.context, path, etag))

    async def move(self, path: str, new_path: str, *, etag: str | None = None) -> FileInfo:
        return await self._shell.run(single_requests.move_file(self._operations.context, path, new_path, etag))

    async def restore(self, path: str) -> FileInfo:
        return await self._shell.run(single_requests.restore_file(self._operations.context, path))

    async def make_link(
        self,
        path: str,
        *,
        expires_in: float | None = None,
        follow: bool = False,
    ) -> SignedLink:
        options = {"expires_in": expires_in, "follow": follow}
        return await self._shell.run(
            single_requests.make_link(self._operations.context, self.url, path, "get", options)
        )

    async def make_upload_link(
        self,
        path: str,
        *,
        expires_in: float | None = None,
        max_size: int | None = None,
        media_types: Sequence[str] = (),
    ) -> SignedLink:
        options = {"expires_in": expires_in, "max_size": max_size, "media_types": list(media_types)}
        return await self._shell.run(
            single_requests.make_link(self._operations.context, self.url, path, "put", options)
        )

    async def prolong_link(self, id: str, link: str, *, expires_in: float | None = None) -> SignedLink:  # noqa: A002
        return await self._shell.run(
            single_requests.prolong_link(self._operations.context, self.url, id, link, expires_in)
        )

    async def revoke_link(self, id: str) -> None:  # noqa: A002
        await self._shell.run(single_requests.revoke_link(self._operations.context, id))

    async def revoke(self, *, subject: str | None = None, token_id: str | None = None) -> RevocationReceipt:
        return await self._shell.run(single_requests.revoke(self._operations.context, subject, token_id))

    async def webhook_endpoints(self) -> Sequence[EndpointInfo]:
        return await self._shell.run(single_requests.list_endpoints(self._operations.context))

    async def add_webhook_endpoint(
        self,
        id: str,  # noqa: A002
        url: str,
        *,
        events: Sequence[str] = ("*",),
        folders: Sequence[str] = (),
        ordered: bool = False,
    ) -> EndpointInfo:
        wanted = {"id": id, "url": url, "events": list(events), "folders": list(folders), "ordered": ordered}
        return await self._shell.run(single_requests.add_endpoint(self._operations.context, wanted))

    async def remove_webhook_endpoint(self, id: str) -> None:  # noqa: A002
        await self._shell.run(single_requests.remove_endpoint(self._operations.context, id))

    async def activate_webhook_endpoint(self, id: str) -> None:  # noqa: A002
        await self._shell.run(single_requests.activate_endpoint(self._operations.context, id))

    async def webhook_deliveries(
        self,
        endpoint: str | None = None,
        *,
        state: Literal["waiting", "done", "dead"] | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[DeliveryInfo]:
        flow = single_requests.list_deliveries(self._operations.context, endpoint, state, before, limit)
        return await self._shell.run(flow)

    async def replay_webhooks(
        self,
        *,
        id: str | None = None,  # noqa: A002
        endpoint: str | None = None,
        state: Literal["done", "dead"] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        flow = single_requests.replay(self._operations.context, id, endpoint, state, since, until)
        return await self._shell.run(flow)

    async def make_live(
        self,
        path: str,
        *,
        title: str = "",
        window: int | None = None,
        takeover: bool = False,
        grace: float | None = None,
        target: int | None = None,
    ) -> NewLive:
        options = {"title": title, "window": window, "takeover": takeover, "grace": grace, "target": target}
        return await self._shell.run(live.make_stream(self._operations.context, self.url, path, options))

    async def publish_live(
        self,
        stream: NewLive,
        source: BinaryIO,
        *,
        end: bool = True,
        progress: ProgressCallback | None = None,
    ) -> None:
        opened = LiveSource(source)
        publisher = live.LivePublisher(self._operations.context, stream.id, stream.publish_token, opened, progress)
        try:
            await self._shell.run(publisher.run(end=end))
        finally:
            opened.stop()

    async def live_stream(self, id: str) -> LiveInfo:  # noqa: A002
        return await self._shell.run(live.get_stream(self._operations.context, self.url, id))

    async def live_streams(
        self, state: Literal["waiting", "live", "interrupted", "ended"] | None = None
    ) -> AsyncIterator[LiveInfo]:
        context = self._operations.context
        async for stream in self._shell.pages(lambda after: live.list_streams(context, self.url, state, after)):
            yield stream

    async def push_live_message(
        self,
        id: str,  # noqa: A002
        type: str,  # noqa: A002
        data: Any = None,
        *,
        at: float | None = None,
        message_id: str | None = None,
    ) -> LiveMessage:
        message = {"type": type, "data": data, "at": at, "id": message_id}
        return await self._shell.run(live.push_message(self._operations.context, id, message))

    async def live_messages(self, id: str, start: float = 0.0, end: float | None = None) -> AsyncIterator[LiveMessage]:  # noqa: A002
        context = self._operations.context
        async for message in self._shell.pages(lambda after: live.list_messages(context, id, start, end, after)):
            yield message

    async def end_live(self, id: str) -> LiveInfo:  # noqa: A002
        return await self._shell.run(live.end_stream(self._operations.context, self.url, id))

    async def discard_live(self, id: str) -> None:  # noqa: A002
        await self._shell.run(live.discard_stream(self._operations.context, id))

    def listen(self, *topics: str) -> "AsyncListener":
        from gridcast._listener import AsyncListener  # noqa: PLC0415  # the WebSocket library, only where it is used

        session = self._operations.session(topics)
        return AsyncListener(self._operations.context, session, self._operations.url, self._tokens, user_agent())

    async def send(
        self,
        sid: str,
        type: str,  # noqa: A002  # the attribute's name in CloudEvents, here and below
        data: Any = None,
        *,
        id: str | None = None,  # noqa: A002
        wait: float | None = None,
    ) -> PushReceipt:
        return await self._shell.run(self._operations.push(("sid", sid), (type, data, id), wait))

    async def publish(self, topic: str, type: str, data: Any = None, *, id: str | None = None) -> PushReceipt:  # noqa: A002
        return await self._shell.run(self._operations.push(("topic", topic), (type, data, id)))

    async def broadcast(self, type: str, data: Any = None, *, id: str | None = None) -> PushReceipt:  # noqa: A002
        return await self._shell.run(self._operations.push(("all", None), (type, data, id)))

    async def version(self) -> ServerVersion:
        return await self._shell.run(single_requests.get_version(self._operations.context))

    async def aclose(self) -> None:
        """Close every connection."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
