"""The flow of one upload whose body is the file itself: created, or put in the place of another, in one step. It knows no HTTP."""

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass

from services.common.media import MediaName
from services.common.store.upload_store import NewUpload, OutboxEvent, Preconditions
from services.upload.digests import DigestVerifier
from services.upload.progress import NullProgress
from services.upload.writer.cleanup import cleanup_after
from services.upload.writer.upload_writer import UploadWriter


@dataclass(frozen=True, slots=True)
class PutRequest:
    """What the request's head says. `length` where it is known."""

    name: MediaName
    content_type: str
    length: int | None
    preconditions: Preconditions
    verifiers: Sequence[DigestVerifier]


async def receive_put(
    body: AsyncIterable[bytes], request: PutRequest, writer: UploadWriter, progress: NullProgress
) -> OutboxEvent:
    """Store the body. Whatever interrupts it, an unfinished upload is taken back before this returns."""
    # The file's own sha256 is made anyway; the others need a hash of their own.
    own = [check for check in request.verifiers if check.algorithm == "sha256"]
    others = [check for check in request.verifiers if check.algorithm != "sha256"]

    def verify_digests(sha256: str) -> None:
        for check in own:
            check.verify_digest(bytes.fromhex(sha256))
        for check in others:
            check.verify()

    try:
        await writer.create(request.name, NewUpload(request.length), request.preconditions)
        async for piece in body:
            for check in others:
                check.update(piece)
            await writer.write(piece)
            progress.set_received(writer.bytes_received)
        announcement = await writer.commit(request.name, request.content_type, request.preconditions, verify_digests)
    except BaseException as error:
        progress.set_state("failed")
        await cleanup_after(error, writer.abort())
        raise
    progress.set_received(writer.bytes_received, writer.bytes_received)
    progress.set_state("stored")
    return announcement
