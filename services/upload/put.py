"""The flow of one upload whose body is the file itself: created, or put in the place of another, in one step. It knows no HTTP."""

from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass

from services.common.media import MediaName
from services.common.store.port import Announcement, Expected, Plan
from services.upload.cleanup import cleaned
from services.upload.digests import Check
from services.upload.progress import NoProgress
from services.upload.receive import Receiver


@dataclass(frozen=True, slots=True)
class Put:
    """What the request's head says. `length` where it is known."""

    name: MediaName
    content_type: str
    length: int | None
    expected: Expected
    checks: Sequence[Check]


async def receive_put(body: AsyncIterable[bytes], put: Put, receiver: Receiver, progress: NoProgress) -> Announcement:
    """Store the body. Whatever interrupts it, an unfinished upload is taken back before this returns."""
    # The file's own sha256 is made anyway; the others need a hash of their own.
    own = [check for check in put.checks if check.algorithm == "sha256"]
    others = [check for check in put.checks if check.algorithm != "sha256"]

    def agree(sha256: str) -> None:
        for check in own:
            check.compare(bytes.fromhex(sha256))
        for check in others:
            check.verify()

    try:
        await receiver.begin(put.name, Plan(put.length), put.expected)
        async for piece in body:
            for check in others:
                check.update(piece)
            await receiver.write(piece)
            progress.received(receiver.received)
        announcement = await receiver.finish(put.name, put.content_type, put.expected, agree)
    except BaseException as error:
        progress.state("failed")
        await cleaned(error, receiver.discard())
        raise
    progress.received(receiver.received, receiver.received)
    progress.state("stored")
    return announcement
