"""Keeps revocations in the collection `revoked`, one document for each token, subject or link.

MongoDB deletes ended ones by itself.
"""

from datetime import UTC, datetime

from pymongo.errors import DuplicateKeyError

from services.common.auth.revocations import LINK_KINDS, TOKEN_KINDS, Revocation
from services.common.store.gridfs.mongo import MongoDatabase, map_mongo_errors
from services.common.store.limits import MAX_REVOCATIONS


class GridFSRevocationStore:
    """A `RevocationStore` beside the files."""

    def __init__(self, mongo: MongoDatabase) -> None:
        self._revoked = mongo.collection("revoked")

    async def add(self, revocation: Revocation) -> None:
        """Replace the document of the same kind and value."""
        fields = {
            "kind": revocation.kind,
            "value": revocation.value,
            "before": revocation.before,
            "until": datetime.fromtimestamp(revocation.until, UTC),
        }
        async with map_mongo_errors():
            await self._revoked.replace_one({"_id": f"{revocation.kind}:{revocation.value}"}, fields, upsert=True)

    async def claim_link(self, link_id: str, until: float) -> bool:
        """Insert the document of a used link, which can exist once."""
        fields = {"kind": "used", "value": link_id, "until": datetime.fromtimestamp(until, UTC)}
        async with map_mongo_errors():
            try:
                await self._revoked.insert_one({"_id": f"used:{link_id}", **fields})
            except DuplicateKeyError:
                return False
        return True

    async def release_link(self, link_id: str) -> None:
        """Delete that document."""
        async with map_mongo_errors():
            await self._revoked.delete_one({"_id": f"used:{link_id}"})

    async def list_current(self, now: float) -> list[Revocation]:
        """Read all that have not ended: MongoDB deletes up to a minute late."""
        current = {"until": {"$gt": datetime.fromtimestamp(now, UTC)}}
        async with map_mongo_errors():
            rows = await (
                self._revoked.find({**current, "kind": {"$in": TOKEN_KINDS}}).sort("until", -1).to_list(MAX_REVOCATIONS)
            )
            rows += await (
                self._revoked.find({**current, "kind": {"$in": LINK_KINDS}})
                .sort([("kind", 1), ("until", -1)])
                .to_list(MAX_REVOCATIONS)
            )
        return [Revocation(row["kind"], row["value"], row["before"], row["until"].timestamp()) for row in rows]
