"""What all upload endpoints share: the context that the lifespan has opened, and the request's body."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import Request

from services.common.auth.authorization import missing_right
from services.common.auth.identity import Identity, subject_of
from services.common.auth.revocations import Revocation
from services.common.auth.sids import SidSigner
from services.common.errors import BadRequest, GridcastError
from services.common.http.clients import client_key
from services.common.http.content_coding import require_identity_coding
from services.common.store.revocation_store import LinkUses
from services.common.store.upload_store import UploadStore
from services.common.telemetry import metrics
from services.common.uploads.body import UploadBody
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.limits import DiskSpaceMonitor, UploadLimiter
from services.common.uploads.outbox import OutboxPublisher
from services.common.uploads.policy import UploadPolicy
from services.common.web.content_length import parse_content_length
from services.common.web.middleware import client_behind_gateway
from services.common.webhooks.hook_protocol import ALLOWED, HookAnswer, HookQuestion
from services.common.webhooks.upload_hook import UploadHook
from services.upload.links import LinkIssuer
from services.upload.playback import PlaybackReporter
from services.upload.progress import Progress, StartProgress
from services.upload.settings import UploadSettings
from services.upload.tus.resumable_uploads import ResumableUploads
from services.upload.webhooks.webhooks import Webhooks
from services.upload.writer.upload_writer import UploadWriter


@dataclass(frozen=True, slots=True)
class UploadContext:
    """The objects of one application that requests use."""

    settings: UploadSettings
    store: UploadStore
    policy: UploadPolicy
    limiter: UploadLimiter
    disk_space: DiskSpaceMonitor
    outbox: OutboxPublisher
    start_progress: StartProgress
    playback: PlaybackReporter
    cleanup: CleanupRunner
    resumable_uploads: ResumableUploads
    sids: SidSigner | None
    revoke: Callable[[Revocation], Awaitable[None]]
    link_uses: LinkUses
    links: LinkIssuer | None
    hook: UploadHook | None = None
    webhooks: Webhooks | None = None

    async def ask_hook(self, make_question: Callable[[], HookQuestion]) -> HookAnswer:
        """Ask the upload hook, where there is one. To be called before a slot, space, a quota or a name is held.

        Raises as `UploadHook.ask`, and ShuttingDown.
        """
        if self.hook is None:
            return ALLOWED
        self.limiter.check_accepting()
        return await self.hook.ask(make_question())

    def check_sid(self, identity: Identity | None, sid: str | None) -> None:
        """Raise InsufficientScope where the progress of an upload would be pushed to the socket of another subject."""
        if not sid or identity is None or self.sids is None or identity.rights.may_everywhere("push"):
            return
        if not self.sids.is_owner(identity.subject, sid):
            raise missing_right(identity, "push")

    def start_progress_for(self, identity: Identity | None) -> StartProgress:
        """Return a `StartProgress` that checks the sid."""

        def start(sid: str | None, filename: str, total: int | None, upload_id: str = "") -> Progress:
            self.check_sid(identity, sid)
            return self.start_progress(sid, filename, total, upload_id)

        return start

    def check_size(self, length: int | None, answer: HookAnswer = ALLOWED) -> None:
        """Check the size of a file and reserve the space for it. Raises ContentTooLarge and InsufficientStorage."""
        answer.limit(self.policy).check_length(length)
        self.disk_space.reserve(length)

    def create_writer(self, body: UploadBody, identity: Identity | None, answer: HookAnswer = ALLOWED) -> UploadWriter:
        """A writer of a file of that caller, which aborts the body when the store fails."""
        max_size = answer.limit(self.policy).max_size
        return UploadWriter(self.store, max_size, body.abort, body.client, subject_of(identity))


def upload_context(request: Request) -> UploadContext:
    """Return the context of the application that received the request.

    Raises BadRequest for a query that FastAPI would accept in part: bytes that are not UTF-8, a parameter given twice.
    """
    try:
        pairs = parse_qsl(request.scope["query_string"].decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise BadRequest("the query string is not percent-encoded UTF-8") from error
    if len(dict(pairs)) != len(pairs):
        raise BadRequest("duplicate query parameter")
    context: UploadContext = request.app.state.upload_context
    return context


@contextmanager
def request_body(request: Request, protocol: str, *, holds_slot: bool = True) -> Iterator[UploadBody]:
    """Hold an upload slot while the body is received, and count the outcome under `protocol`. Refuses content codings.

    Without `holds_slot` the caller acquires it. An error response before the end of the body closes the connection: the rest is not
    read.
    """
    context = upload_context(request)
    client = client_key(client_behind_gateway(request.scope))
    settings = context.settings
    body = UploadBody(request.receive, settings.min_upload_rate, settings.upload_rate_window, client)
    body.at_eof = parse_content_length(request) == 0
    outcome = "aborted"
    try:
        require_identity_coding(request.scope["headers"])
        with context.limiter.acquire_slot(body) if holds_slot else nullcontext():
            yield body
        outcome = "completed"
    except GridcastError as error:
        outcome = "rejected" if error.status < 500 else "failed"
        if not body.at_eof:
            error.headers["connection"] = "close"
        raise
    finally:
        metrics.UPLOAD_REQUESTS.labels(protocol, outcome).inc()
