"""The flow of a resumable upload: begin, look, receive some bytes, end. It knows no HTTP and no driver.

What a client may rely on: the offset it is shown is durable, and the whole length is shown only when the file is stored.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from services.common import metrics
from services.common.errors import (
    Conflict,
    Forbidden,
    Gone,
    GridcastError,
    NotFound,
    NotUnique,
    Unavailable,
)
from services.common.media import MediaName
from services.common.store.port import Ended, Open, Plan, Upload, UploadStore
from services.upload.body import Body
from services.upload.cleanup import cleaned, is_away, to_its_end
from services.upload.content_types import content_type
from services.upload.digests import Check
from services.upload.limits import Limits
from services.upload.patches import Patch, Received, lost
from services.upload.progress import NoProgress, Watch
from services.upload.receive import Receiver
from services.upload.writers import Writers

SAVE_SECONDS = 1.0
"""Bytes of a slow client are made durable after so long, though their batch is not full."""
LOOK_SECONDS = 3.5
"""How long a look waits for bytes that were read and are not durable yet."""

_log = logging.getLogger("gridcast.upload")


class Resumer:
    """Resumable uploads of one process."""

    def __init__(self, store: UploadStore, limits: Limits, watch: Watch, seconds: float) -> None:
        self._store = store
        self._limits = limits
        self._watch = watch
        self._seconds = seconds
        self._writers = Writers()

    async def create(
        self, name: MediaName | None, length: int | None, facts: dict[str, str], body: Body, patch: Patch
    ) -> tuple[str, Received]:
        """Begin an upload and take what comes with it. Returns its address. Without a name it is a part of another."""
        self._limits.check_length(length)
        receiver = Receiver(self._store, self._limits.max_length if length is None else length, body.cut)
        upload = await receiver.begin(name, Plan(length, self._seconds, facts))
        receiver.held_back = None if name is None else length
        try:
            state = await self._begun(upload.address)
            async with self._writers.only(upload.address, body):
                received = await self._receive(receiver, upload, state, body, patch)
        except BaseException as error:
            # Its address was told to nobody: it can never be gone on with.
            filename = "" if name is None else name.filename
            self._watch(facts.get("sid"), filename, None, upload.address).state("failed")
            await cleaned(error, receiver.discard())
            if isinstance(error, Gone):  # lost at the end of one request that was both creation and upload
                raise Conflict(error.detail, error.headers) from error
            raise
        return upload.address, received

    async def _begun(self, address: str) -> Open:
        state = await self._store.peek(address)
        if not isinstance(state, Open):
            raise Unavailable("the upload is gone already")
        return state

    async def look(self, address: str) -> Open | Ended:
        """What is durable. Waits a moment while somebody holds more than that."""
        deadline = time.monotonic() + LOOK_SECONDS
        found = await self._store.peek(address)
        while isinstance(found, Open) and found.writing and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            found = await self._store.peek(address)
        return self._there(address, await self._store.look(address))

    async def patch(self, address: str, body: Body, patch: Patch) -> Received:
        """Take bytes from `patch.offset` on. Whoever writes this upload elsewhere is cut off."""
        found = await self._store.peek(address)
        if found is not None and found.facts.get("concat", "").startswith("final"):
            raise Forbidden("a final upload takes no bytes")
        found = self._there(address, found)
        if isinstance(found, Ended) or found.offset != patch.offset:
            # This will be the answer: what was seen need not be durable, and a commit that another has just made may be undone.
            found = self._there(address, await self._store.look(address))
        if isinstance(found, Ended):
            return patch.again(found)
        patch.check(found, self._limits.max_length)
        self._limits.check_length(patch.content_length)
        async with self._writers.only(address, body):
            began = time.monotonic()
            taken = await self._store.take(address)
            if not isinstance(taken, tuple):
                return patch.again(self._there(address, taken))
            upload, state = taken
            metrics.TAKEOVERS.inc(found.writing)
            length = state.length if patch.length is None else patch.length
            receiver = Receiver(self._store, self._limits.max_length if length is None else length, body.cut)
            hashed = self._writers.hashed(address, state.offset // self._store.block_size)
            receiver.resume(upload, state, hashed, began)
            receiver.length = length
            receiver.held_back = None if state.name is None else length
            try:
                patch.check(state, self._limits.max_length)
            except GridcastError:
                await to_its_end(self._release(receiver))
                raise
            return await self._receive(receiver, upload, state, body, patch)

    async def end(self, address: str) -> None:
        """Take an unfinished upload back."""
        await self._writers.cut(address)
        taken = await self._store.take(address)
        if isinstance(self._there(address, taken if taken is None or isinstance(taken, Ended) else taken[1]), Ended):
            raise Gone("this upload has ended")
        if isinstance(taken, tuple):
            # Another process may be in the middle of an insert.
            await self._store.abort(taken[0], late=True)

    def _there(self, address: str, found: Open | Ended | None) -> Open | Ended:
        """`found`. Raises Gone for what has expired or was lost, NotFound for what never was."""
        if found is None:
            age = self._store.age(address)
            raise Gone("this upload has expired") if age and age > self._seconds else NotFound("no such upload")
        if isinstance(found, Ended) and found.outcome == "lost":
            raise lost(found)
        return found

    async def _receive(self, receiver: Receiver, upload: Upload, state: Open, body: Body, patch: Patch) -> Received:
        filename = state.name.filename if state.name else ""
        silent = body.ended and receiver.received != receiver.length
        progress = (
            NoProgress() if silent else self._watch(state.facts.get("sid"), filename, receiver.length, upload.address)
        )
        progress.received(receiver.received, receiver.length)
        before = receiver.hashed
        try:
            await self._read(receiver, body, patch.checks, progress)
            if state.name is not None and receiver.received == receiver.length:
                received = await self._finish(receiver, state.name, state, progress)
            else:
                expires = await receiver.save(writing=False)
                received = Received(receiver.received, expires)
        except BaseException as error:
            if isinstance(error, Gone):
                progress.state("failed")
            progress.close()
            await cleaned(error, self._interrupted(receiver, state, patch, error, before))
            raise
        await receiver.rest()
        if received.stored is None:
            self._writers.keep(upload.address, receiver.hashed)
        if received.stored is not None:
            progress.state("stored")
        progress.close()
        return received

    async def _read(self, receiver: Receiver, body: Body, checks: Sequence[Check], progress: NoProgress) -> None:
        """To the end of the body. Bytes with a checksum become durable when it was right, the others as they come."""
        receiver.marks = not checks
        held = True
        while (piece := await body.read(SAVE_SECONDS if receiver.marks else None)) is not None:
            if piece:
                for check in checks:
                    check.update(piece)
                await receiver.write(piece)
                progress.received(receiver.received, receiver.length)
                held = True
            old = time.monotonic() - receiver.saved_at >= SAVE_SECONDS
            if receiver.marks and ((receiver.unsaved and old) or (held and not piece)):
                await receiver.save(writing=bool(piece))
                held = bool(piece)
        for check in checks:
            check.verify()

    async def _finish(self, receiver: Receiver, name: MediaName, state: Open, progress: NoProgress) -> Received:
        kind = content_type(state.facts.get("filetype", ""), name.filename)
        try:
            stored = await receiver.finish(name, kind, verifying=lambda: progress.state("verifying"))
        except NotUnique as error:
            await to_its_end(receiver.discard(lost=True))
            raise Gone(error.detail) from error
        except Gone:  # its bytes are damaged: whoever asks again would be told so for ever
            await to_its_end(receiver.discard())
            raise
        progress.received(receiver.received)
        return Received(receiver.received, None, stored, stored.info.sha256)

    async def _interrupted(
        self,
        receiver: Receiver,
        state: Open,
        patch: Patch,
        error: BaseException,
        before: tuple[int, object],
    ) -> None:
        """Keep what may be kept. Never raises: what is not saved here is asked for again."""
        with suppress(GridcastError):
            if isinstance(error, (Gone, Conflict)) or is_away(error):
                await receiver.rest()
            elif patch.checks:
                await receiver.roll_back(before[0])
                upload = receiver.upload
                if upload is not None:
                    await self._store.move(upload, state.offset, state.tail, state.length, writing=False, moved=False)
            else:
                await self._release(receiver)

    async def _release(self, receiver: Receiver) -> None:
        """Save and leave."""
        try:
            await receiver.save(writing=False)
        finally:
            await receiver.rest()
        if receiver.upload is not None:
            self._writers.keep(receiver.upload.address, receiver.hashed)
