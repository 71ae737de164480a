"""What all live endpoints share: the context that the lifespan has opened, and the body of a publisher's request."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request

from services.common.auth.authorization import missing_right
from services.common.auth.identity import Identity, identity_of
from services.common.auth.rights import Verb
from services.common.auth.sids import SidSigner
from services.common.errors import GridcastError
from services.common.http.clients import client_key
from services.common.http.content_coding import require_identity_coding
from services.common.http.query import parse_query
from services.common.store.live_store import LiveStream
from services.common.telemetry import metrics
from services.common.uploads.body import UploadBody
from services.common.uploads.limits import DiskSpaceMonitor, UploadLimiter
from services.common.web.content_length import parse_content_length
from services.common.web.middleware import client_behind_gateway
from services.common.webhooks.hook_protocol import ALLOWED, HookAnswer, HookQuestion
from services.common.webhooks.upload_hook import UploadHook
from services.live.live_streams import LiveStreams
from services.live.messages import TimedMessages
from services.live.receiving import LiveReceiver
from services.live.settings import LiveSettings
from services.live.stream_ending import StreamEnder

MIN_SENDER_RATE = 256
"""Bytes per second: a publisher that sends less over SENDER_WINDOW_SECONDS is cut off with 408."""
SENDER_WINDOW_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LiveContext:
    """The objects of one application that requests use."""

    settings: LiveSettings
    streams: LiveStreams
    ender: StreamEnder
    receiver: LiveReceiver
    messages: TimedMessages
    limiter: UploadLimiter
    disk_space: DiskSpaceMonitor
    sids: SidSigner | None
    hook: UploadHook | None = None

    async def ask_hook(self, question: HookQuestion) -> HookAnswer:
        """Ask the upload hook, where there is one. To be called before a name or space is held. Raises as `UploadHook.ask`."""
        return ALLOWED if self.hook is None else await self.hook.ask(question)

    async def find(self, request: Request, stream_id: str, verb: Verb) -> LiveStream:
        """Return a stream for which the caller has the right. Raises NotFound, InsufficientScope."""
        stream = await self.ender.get(stream_id)
        identity = identity_of(request.scope)
        if identity is not None and not identity.rights.may_folder(verb, stream.new.name.folder):
            raise missing_right(identity, verb, stream.new.name.folder)
        return stream

    def publisher_sid(self, request: Request, stream: LiveStream) -> str | None:
        """Return the socket that hears what is durable: `sid` of the query, or X-Sid; None for none.

        With authentication on it must be one of the owner of the stream: others are not told.
        """
        sid = parse_query(request.scope["query_string"]).get("sid") or request.headers.get("x-sid")
        if sid and self.sids is not None and not self.sids.is_owner(stream.new.owner, sid):
            return None
        return sid


def live_context(request: Request) -> LiveContext:
    """Return the context of the application that received the request."""
    context: LiveContext = request.app.state.live_context
    return context


def caller(request: Request) -> tuple[Identity | None, str]:
    """Return the identity of a request, and the key of its client."""
    return identity_of(request.scope), client_key(client_behind_gateway(request.scope))


@contextmanager
def publisher_body(request: Request, way: str) -> Iterator[UploadBody]:
    """Hold a publisher's slot while the body is received, and count the outcome under `way`. Refuses content codings.

    An error response before the end of the body closes the connection: the rest is not read.
    """
    context = live_context(request)
    body = UploadBody(request.receive, MIN_SENDER_RATE, SENDER_WINDOW_SECONDS, caller(request)[1])
    body.at_eof = parse_content_length(request) == 0
    outcome = "aborted"
    try:
        require_identity_coding(request.scope["headers"])
        with context.limiter.acquire_slot(body):
            yield body
        outcome = "completed"
    except GridcastError as error:
        outcome = "rejected" if error.status < 500 else "failed"
        if not body.at_eof:
            error.headers["connection"] = "close"
        raise
    finally:
        metrics.UPLOAD_REQUESTS.labels(f"live-{way}", outcome).inc()
