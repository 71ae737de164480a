"""The blocking client."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Self

from gridcast._flows import live, single_requests
from gridcast._local.sources import LiveSource, open_source
from gridcast._local.targets import open_target
from gridcast._operations import (
    DEFAULT_OUTAGE_SECONDS,
    DEFAULT_TIMEOUT_SECONDS,
    Operations,
    PathArgument,
    UploadSource,
    upload_options,
    user_agent,
)
from gridcast._remote_file import RemoteFile
from gridcast._sync_shell import SyncShell
from gridcast._tokens import Token, TokenCache
from gridcast._transport import HttpTransport
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
    from gridcast._listener import Listener


class Client:
    """A client of one server, for threads and scripts. Threads may share it, and it keeps connections until `close`.

    `url` is `http(s)://host:port`. `timeout` is the number of seconds without a byte after which a request has failed, and
    `outage_seconds` the number without progress after which a transfer has. A path is `folder/name`.

    `token` is a text, the path of a file that has one, or a function that returns one: file and function are asked again 30 s
    before a JWT expires, once where the server answers 401, and by a listener whose token ends soon. What a function raises, the
    method raises. `token_from_environment()` is that of GRIDCAST_TOKEN or GRIDCAST_TOKEN_FILE.

    Requests are repeated only where that is safe: after 408, 429, 502, 503, 504 and lost connections, at most four times, and as
    Retry-After says. Redirects are not followed.

    Every method raises a RequestError (gridcast.errors); what is wrong with the arguments is InvalidRequest, a ValueError as well.
    """

    def __init__(
        self,
        url: str,
        token: Token = None,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        outage_seconds: float = DEFAULT_OUTAGE_SECONDS,
    ) -> None:
        self._operations = Operations(url, timeout, outage_seconds)
        self._tokens = TokenCache(token)
        self._transport = HttpTransport(self._operations.url, timeout, user_agent())
        self._shell = SyncShell(self._transport, self._tokens)

    @property
    def url(self) -> str:
        """The origin of the server."""
        return self._operations.url.origin

    def upload(
        self,
        source: UploadSource,
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
        """Store a file at `path` and return its description, once it is durable and its SHA-256 was compared.

        `source` is a path, bytes, a binary file object (read from its position on, left open) or an iterator of bytes, which may be
        asynchronous for AsyncClient. Up to 16 MiB are sent with one PUT, more through tus: an interruption costs at most one part
        of `part_bytes` (2040 KiB). `size` in bytes is what is known of a stream. With `state`, the path of a file, a killed process
        is continued by the next call with the same arguments; the file is deleted at the end. `replace` replaces a file of
        that name in one step, in one request that cannot be continued. `metadata` are up to 64 texts. `sid` receives the progress
        as `file.progress`.

        Raises:
            NameConflict: the name is taken.
            SourceChanged: the file was changed meanwhile; nothing stays stored.
            DigestMismatch: the server stored other bytes; they were removed.
            LimitExceeded: the file is too large, or the server has no space.
            OSError: the source cannot be read.

        """
        options = upload_options(content_type, metadata, sid, part_bytes, replace=replace)
        opened = open_source(source, size)
        try:
            return self._shell.run(self._operations.upload(opened, path, options, state, progress))
        finally:
            opened.close()

    def download(self, path: str, target: PathArgument | BinaryIO, *, progress: ProgressCallback | None = None) -> str:
        """Write a file to a path or a binary file object, compare its SHA-256, and return its ETag.

        A path appears complete or not at all: until then the bytes are in a hidden part file beside it, which the next call
        continues (If-Range), also in another process. An interrupted connection is continued in both cases.

        Raises:
            FileMissing: there is no such file.
            FileChanged: it was replaced meanwhile, and a file object has the beginning of the old version already.
            DigestMismatch: what came is not what is stored.
            TransferBusy: another process is downloading to this path.
            OSError: the target cannot be written.

        """
        opened = open_target(target)
        try:
            return self._shell.run(self._operations.download(path, opened, progress))
        finally:
            opened.close()

    def open(self, path: str) -> RemoteFile:
        """Return a file as a seekable binary file object that reads ranges: for Pillow, PyAV, zipfile. Close this client last."""
        info = self.info(path)
        return RemoteFile(info, lambda start, size: self._shell.run(self._operations.range(info, start, size)))

    def info(self, path: str) -> FileInfo:
        """Describe one file. Raises FileMissing."""
        return self._shell.run(self._operations.info(path))

    def files(self, folder: str | None = None, *, query: str = "") -> Iterator[FileInfo]:
        """Iterate over the files, newest first, fetching pages as needed: all of them, or those of one folder (not below it).

        `query` is what the filename begins with or contains, in any case.
        """
        context = self._operations.context
        yield from self._shell.pages(lambda after: single_requests.list_files(context, folder, query, after))

    def folders(self) -> Iterator[str]:
        """Iterate over the folders that hold files, by name; the empty one is for files in none."""
        context = self._operations.context
        yield from self._shell.pages(lambda after: single_requests.list_folders(context, after))

    def remove(self, path: str, *, etag: str | None = None) -> None:
        """Delete a file; with `etag`, only that version. Raises FileMissing, or NameConflict for another version."""
        self._shell.run(single_requests.remove_file(self._operations.context, path, etag))

    def move(self, path: str, new_path: str, *, etag: str | None = None) -> FileInfo:
        """Rename a file or move it to another folder, and return it as it is then. Its id and its bytes stay.

        With `etag` only that version. Raises FileMissing, and NameConflict where the new name is taken or it is another version.
        """
        return self._shell.run(single_requests.move_file(self._operations.context, path, new_path, etag))

    def restore(self, path: str) -> FileInfo:
        """Undo the last deletion of a name, for as long as the server keeps the bytes: usually an hour.

        Raises FileMissing where it was too long ago, NameConflict where the name is taken.
        """
        return self._shell.run(single_requests.restore_file(self._operations.context, path))

    def make_link(
        self,
        path: str,
        *,
        expires_in: float | None = None,
        follow: bool = False,
    ) -> SignedLink:
        """Make a link that reads one file without a token, for `expires_in` seconds, by default as long as the server says.

        It reads the present version alone; with `follow` also those that replace it. Raises FileMissing, PermissionDenied without
        the rights `link` and `read` for the folder, NameConflict where the server needs no tokens and so no links.
        """
        options = {"expires_in": expires_in, "follow": follow}
        return self._shell.run(single_requests.make_link(self._operations.context, self.url, path, "get", options))

    def make_upload_link(
        self,
        path: str,
        *,
        expires_in: float | None = None,
        max_size: int | None = None,
        media_types: Sequence[str] = (),
    ) -> SignedLink:
        """Make a link that uploads that one file once, over tus, without a token.

        `max_size` in bytes; `media_types` as `image/png` or `video/*`. Raises PermissionDenied without `link` and `write` for the
        folder.
        """
        options = {"expires_in": expires_in, "max_size": max_size, "media_types": list(media_types)}
        return self._shell.run(single_requests.make_link(self._operations.context, self.url, path, "put", options))

    def prolong_link(self, id: str, link: str, *, expires_in: float | None = None) -> SignedLink:  # noqa: A002
        """Let a link that reads live from now on for `expires_in` seconds, also one that has ended; `link` is it or its URL."""
        return self._shell.run(single_requests.prolong_link(self._operations.context, self.url, id, link, expires_in))

    def revoke_link(self, id: str) -> None:  # noqa: A002
        """Revoke a link by its id. Within two seconds it is refused, and what it plays is cut."""
        self._shell.run(single_requests.revoke_link(self._operations.context, id))

    def revoke(self, *, subject: str | None = None, token_id: str | None = None) -> RevocationReceipt:
        """Revoke one token by its `jti`, or all tokens of a subject that were issued until now. Needs `admin`."""
        return self._shell.run(single_requests.revoke(self._operations.context, subject, token_id))

    def webhook_endpoints(self) -> Sequence[EndpointInfo]:
        """Return the endpoints of webhooks with their queues. Needs `admin`, as all about webhooks does."""
        return self._shell.run(single_requests.list_endpoints(self._operations.context))

    def add_webhook_endpoint(
        self,
        id: str,  # noqa: A002
        url: str,
        *,
        events: Sequence[str] = ("*",),
        folders: Sequence[str] = (),
        ordered: bool = False,
    ) -> EndpointInfo:
        """Add an endpoint; its `secret` is in this answer alone. `events` as `file.*`, `folders` with those below, none for all."""
        wanted = {"id": id, "url": url, "events": list(events), "folders": list(folders), "ordered": ordered}
        return self._shell.run(single_requests.add_endpoint(self._operations.context, wanted))

    def remove_webhook_endpoint(self, id: str) -> None:  # noqa: A002
        """Remove an endpoint that was added over the API; its waiting deliveries are dead."""
        self._shell.run(single_requests.remove_endpoint(self._operations.context, id))

    def activate_webhook_endpoint(self, id: str) -> None:  # noqa: A002
        """Let an endpoint that has answered 410 get events again."""
        self._shell.run(single_requests.activate_endpoint(self._operations.context, id))

    def webhook_deliveries(
        self,
        endpoint: str | None = None,
        *,
        state: Literal["waiting", "done", "dead"] | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> Sequence[DeliveryInfo]:
        """Return a page of deliveries, those of the newest events first; `before` is the last id of the page before."""
        flow = single_requests.list_deliveries(self._operations.context, endpoint, state, before, limit)
        return self._shell.run(flow)

    def replay_webhooks(
        self,
        *,
        id: str | None = None,  # noqa: A002
        endpoint: str | None = None,
        state: Literal["done", "dead"] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> int:
        """Send one delivery again, or those of an endpoint, a state and a time; return how many, 10,000 at most."""
        flow = single_requests.replay(self._operations.context, id, endpoint, state, since, until)
        return self._shell.run(flow)

    def make_live(
        self,
        path: str,
        *,
        title: str = "",
        window: int | None = None,
        takeover: bool = False,
        grace: float | None = None,
        target: int | None = None,
    ) -> NewLive:
        """Make a live stream whose file will be at `path`: the name is taken from now on. Needs the right `publish`.

        `window` is the seconds that its list has by default, None for all of it; with `takeover` a second publisher replaces the
        first one; `grace` is the seconds that it may be interrupted, `target` the seconds of a segment. Raises NameConflict.
        """
        options = {"title": title, "window": window, "takeover": takeover, "grace": grace, "target": target}
        return self._shell.run(live.make_stream(self._operations.context, self.url, path, options))

    def publish_live(
        self,
        stream: NewLive,
        source: BinaryIO,
        *,
        end: bool = True,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Send fragmented MP4 as it comes, until the source ends; the stream ends with it unless `end` is False.

        What the server has not acknowledged is kept and sent again, also to another replica. Raises NameConflict where another
        publisher has replaced this one, FileMissing where the stream has ended, InvalidRequest for other media.
        """
        opened = LiveSource(source)
        publisher = live.LivePublisher(self._operations.context, stream.id, stream.publish_token, opened, progress)
        try:
            self._shell.run(publisher.run(end=end))
        finally:
            opened.stop()

    def live_stream(self, id: str) -> LiveInfo:  # noqa: A002
        """Describe a live stream."""
        return self._shell.run(live.get_stream(self._operations.context, self.url, id))

    def live_streams(
        self, state: Literal["waiting", "live", "interrupted", "ended"] | None = None
    ) -> Iterator[LiveInfo]:
        """Iterate over the live streams that the caller may watch; those that have not ended, where no state is given."""
        context = self._operations.context
        yield from self._shell.pages(lambda after: live.list_streams(context, self.url, state, after))

    def push_live_message(
        self,
        id: str,  # noqa: A002
        type: str,  # noqa: A002
        data: Any = None,
        *,
        at: float | None = None,
        message_id: str | None = None,
    ) -> LiveMessage:
        """Push an event to the topic of a stream that is live, and keep it with its media time, so that a replay shows it there.

        `at` is what its sender watches, in seconds of the stream; what is captured now by default. With `message_id` a push that
        failed may be repeated: it is kept once. Raises NameConflict before the stream has begun, FileMissing where it has ended.
        """
        message = {"type": type, "data": data, "at": at, "id": message_id}
        return self._shell.run(live.push_message(self._operations.context, id, message))

    def live_messages(self, id: str, start: float = 0.0, end: float | None = None) -> Iterator[LiveMessage]:  # noqa: A002
        """Iterate over the messages of a stream by their media time, from `start` on and before `end`, in seconds."""
        context = self._operations.context
        yield from self._shell.pages(lambda after: live.list_messages(context, id, start, end, after))

    def end_live(self, id: str) -> LiveInfo:  # noqa: A002
        """End a live stream; what came is its file."""
        return self._shell.run(live.end_stream(self._operations.context, self.url, id))

    def discard_live(self, id: str) -> None:  # noqa: A002
        """Throw a live stream away with all that came."""
        self._shell.run(live.discard_stream(self._operations.context, id))

    def listen(self, *topics: str) -> "Listener":
        """Return an iterator of the events to all, to its own sid, and to these topics. It connects on first use."""
        from gridcast._listener import Listener  # noqa: PLC0415  # the WebSocket library, only where it is used

        session = self._operations.session(topics)
        return Listener(self._operations.context, session, self._operations.url, self._tokens, user_agent())

    def send(
        self,
        sid: str,
        type: str,  # noqa: A002  # the attribute's name in CloudEvents, here and below
        data: Any = None,
        *,
        id: str | None = None,  # noqa: A002
        wait: float | None = None,
    ) -> PushReceipt:
        """Push an event to one client; `wait` is the seconds to wait for its ack, 30 at most. Raises FileMissing.

        An event with the same id is pushed once in four minutes, so a call that failed may be repeated with its id.
        """
        return self._shell.run(self._operations.push(("sid", sid), (type, data, id), wait))

    def publish(self, topic: str, type: str, data: Any = None, *, id: str | None = None) -> PushReceipt:  # noqa: A002
        """Push an event to every client that is subscribed to a topic."""
        return self._shell.run(self._operations.push(("topic", topic), (type, data, id)))

    def broadcast(self, type: str, data: Any = None, *, id: str | None = None) -> PushReceipt:  # noqa: A002
        """Push an event to every client."""
        return self._shell.run(self._operations.push(("all", None), (type, data, id)))

    def version(self) -> ServerVersion:
        """Return what the server states of itself."""
        return self._shell.run(single_requests.get_version(self._operations.context))

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"
