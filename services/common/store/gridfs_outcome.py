"""Commit and delete: the changes whose outcome must be known. An answer that was lost is read back before anything is said.

What is read may not be in the journal yet, and would be gone after a kill. So every look is a journalled write to the same
document: when that is acknowledged, all that it saw is durable too.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bson import ObjectId
from pymongo import ReturnDocument

from services.common.errors import Conflict, PreconditionFailed, Unavailable
from services.common.media import MediaName
from services.common.mongo import Mongo, translated
from services.common.store import documents, endings
from services.common.store.documents import Document, Times
from services.common.store.port import Announcement, Expected, Upload, Written

OUTCOME_SECONDS = 6.0
"""How long a change whose outcome is unknown is asked after before the answer is 503."""
TRY_SECONDS = 4.0
"""One try, shorter than any other step: a change that nobody answered must be asked after before the client hears 503."""
T = TypeVar("T")


class Changes:
    """What readers notice."""

    def __init__(self, mongo: Mongo, times: Times) -> None:
        self._media = mongo.collection("media")
        self._times = times

    async def commit(self, upload: Upload, written: Written, expected: Expected) -> Announcement | None:
        """Make the file current; None where `current` is not as expected. Raises Conflict where the fence was lost."""
        media, identifier, name = ObjectId(upload.media), ObjectId(upload.id), upload.name
        event, holder = ObjectId(), ObjectId()
        fence = upload.fence
        condition, update = endings.commit(identifier, ObjectId(upload.file), written, event, self._times, expected)
        raising = documents.raise_fence(identifier, holder, self._times)

        async def once() -> Announcement | None:
            held = documents.mine(media, name, identifier, fence)
            document = await self._update({**held, **condition}, update)
            if document is None:
                await self._check(held)
                return None
            return _announcement(document, event)

        async def learn() -> Announcement | None:
            """Raise the fence, so that the commit cannot come any more; where that fails, look why."""
            nonlocal fence
            if await self._update(documents.mine(media, name, identifier, fence), raising):
                fence += 1
                return None
            document = await self._seen(documents.place(media, name, identifier))
            if (found := _announcement(document, event)) is not None:
                return found
            entry = documents.entry(document, identifier)
            if entry is not None and entry["holder"] == holder:
                fence = entry["fence"]
                return None
            if entry is None and any(end["id"] == identifier for end in document["ended"]):
                raise Unavailable("what became of the upload cannot be learnt")
            raise Conflict("this upload was taken over or has expired")

        return await _certain(once, learn)

    async def _check(self, held: Document) -> None:
        """Raises Conflict where a commit matched nothing because of its fence, not of what stands under the name."""
        async with translated():
            if await self._media.find_one(held, {"_id": 1}) is None:
                raise Conflict("this upload was taken over or has expired")

    async def delete(self, name: MediaName, expected: Expected) -> Announcement | None:
        """Make the current file invisible, None where there is none. Raises PreconditionFailed."""
        event = ObjectId()
        key = documents.key(name, event)
        update = endings.delete(event, self._times)
        async with translated():
            before = await self._media.find_one(key, {"current": 1})
        if before is None or before["current"] is None:
            return None
        place = {"_id": before["_id"], **key}
        # The version that was seen, so that a second try cannot delete one that came after it.
        pinned = {**place, "current.file": before["current"]["file"], "$expr": documents.holds(expected)}

        async def once() -> Announcement | None:
            document = await self._update(pinned, update)
            return _announcement(document, event) if document else None

        async def learn() -> Announcement | None:
            return _announcement(await self._seen(place), event)

        # Where nothing matched, the first try may have arrived after it was asked after.
        done = await _certain(once, learn) or await learn()
        if done is None:
            raise PreconditionFailed("the file has just changed, or is not the one that the request expects")
        return done

    async def _update(self, query: Document, update: documents.Pipeline) -> Document | None:
        async with translated():
            found: Document | None = await self._media.find_one_and_update(
                query, update, return_document=ReturnDocument.AFTER
            )
            return found

    async def _seen(self, place: Document) -> Document:
        """The document as it durably is."""
        document = await self._update(place, documents.TOUCH)
        return document or {"current": None, "uploads": [], "ended": [], "doomed": [], "announce": []}


def _announcement(document: Document, event: ObjectId) -> Announcement | None:
    """The event, where the document says that it happened."""
    for note in document["announce"]:
        if note["id"] == event:
            return Announcement(str(event), note["type"], documents.info(document, note["of"]))
    return None


async def _certain(once: Callable[[], Awaitable[T | None]], learn: Callable[[], Awaitable[T | None]]) -> T | None:
    """The result of `once`; where it got no answer, that of `learn`, and where there is none yet `once` again."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + OUTCOME_SECONDS
    doing: Callable[[], Awaitable[T | None]] = once
    while True:
        try:
            async with asyncio.timeout(TRY_SECONDS):
                result = await doing()
        except (Unavailable, TimeoutError) as error:
            if clock() > deadline:
                raise Unavailable("the database does not say what became of the change") from error
            doing = learn
            await asyncio.sleep(0.2)
            continue
        if doing is once or result is not None:
            return result
        doing = once
