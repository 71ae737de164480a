"""Keeps revocations in the table `revocations`, one row for each token, subject or link.

Ended ones are deleted when another is added.
"""

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from services.common.auth.revocations import LINK_KINDS, TOKEN_KINDS, Revocation
from services.common.store.files import schema
from services.common.store.files.database import Transaction
from services.common.store.files.files_database import FilesDatabase
from services.common.store.limits import MAX_REVOCATIONS

revocations = schema.revocations
_USED = "used"


class FilesRevocationStore:
    """A `RevocationStore` beside the files."""

    def __init__(self, files: FilesDatabase) -> None:
        self._database = files.database

    async def add(self, revocation: Revocation) -> None:
        """Replace the row of the same kind and value, and delete what has ended by the database's clock."""
        times = {"before": revocation.before, "until": revocation.until}

        def insert(transaction: Transaction) -> None:
            dialect = postgresql if transaction.connection.dialect.name == "postgresql" else sqlite
            statement = dialect.insert(revocations).values(
                kind=revocation.kind, value=revocation.value.encode(), **times
            )
            execute = transaction.connection.execute
            execute(delete(revocations).where(revocations.c.until <= transaction.clock.wall / 1000))
            execute(statement.on_conflict_do_update(index_elements=["kind", "value"], set_=times))

        await self._database.write(insert)

    async def claim_link(self, link_id: str, until: float) -> bool:
        """Insert the row of a used link, which can exist once."""

        def insert(transaction: Transaction) -> bool:
            dialect = postgresql if transaction.connection.dialect.name == "postgresql" else sqlite
            statement = dialect.insert(revocations).values(kind=_USED, value=link_id.encode(), before=0.0, until=until)
            return transaction.connection.execute(statement.on_conflict_do_nothing()).rowcount == 1

        return await self._database.write(insert)

    async def release_link(self, link_id: str) -> None:
        """Delete that row."""
        statement = delete(revocations).where(revocations.c.kind == _USED, revocations.c.value == link_id.encode())
        await self._database.write(lambda transaction: transaction.connection.execute(statement))

    async def list_current(self, now: float) -> list[Revocation]:
        """Read all that have not ended."""
        current = select(revocations).where(revocations.c.until > now).limit(MAX_REVOCATIONS)
        latest = revocations.c.until.desc()
        of_tokens = current.where(revocations.c.kind.in_(TOKEN_KINDS)).order_by(latest)
        of_links = current.where(revocations.c.kind.in_(LINK_KINDS)).order_by(revocations.c.kind, latest)
        rows = await self._database.read(
            lambda connection: [*connection.execute(of_tokens).all(), *connection.execute(of_links).all()]
        )
        return [Revocation(row.kind, row.value.decode(), row.before, row.until) for row in rows]
