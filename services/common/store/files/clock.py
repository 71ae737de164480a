"""The database's clock, in milliseconds since 1970, and the lease clock made of it, which never goes back.

`StoreClock.wall` is the database's time. Leases and expiries are measured by `StoreClock.now`: the database's time plus `skew`. The
greatest time that was seen is kept in the database, about every second; where the database's clock is found behind it, `skew` grows
by the difference. So the lease clock goes on from where it was, and a clock that is set back by an hour neither revives what has
expired nor keeps a lease for an hour longer.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Connection, case, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from services.common.store.files import schema

CLOCK_RESOLUTION_MS = 1000
"""How far the kept time may be behind: it is written once in this time."""


class _DatabaseTime(FunctionElement[int]):
    """The database's time in milliseconds since 1970."""

    inherit_cache = True
    type = BigInteger()
    name = "database_time"


@compiles(_DatabaseTime, "sqlite")  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
def _sqlite_time(*_: Any, **__: Any) -> str:
    # SQLite before 3.42 has no unixepoch('subsec').
    return "CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"


@compiles(_DatabaseTime, "postgresql")  # type: ignore[no-untyped-call,untyped-decorator,unused-ignore]
def _postgresql_time(*_: Any, **__: Any) -> str:
    return "CAST(FLOOR(EXTRACT(EPOCH FROM clock_timestamp()) * 1000) AS BIGINT)"


@dataclass(frozen=True, slots=True)
class StoreClock:
    """One reading: `wall` is the database's time, `skew` what the lease clock is ahead of it; in milliseconds."""

    wall: int
    now: int
    skew: int

    def to_datetime(self, lease_time: int) -> datetime:
        """A time of the lease clock as a date by the database's clock."""
        return from_milliseconds(lease_time - self.skew)


def read_clock(connection: Connection) -> StoreClock:
    """Read both clocks."""
    wall, latest, skew = connection.execute(_READING).one()
    return StoreClock(wall, max(wall + skew, latest), skew)


def record_clock(connection: Connection) -> None:
    """Keep the time, and make up for a clock that was set back. In a transaction of its own: all others read the row."""
    wall, latest, skew = connection.execute(_READING.with_for_update()).one()
    behind = latest - (wall + skew)
    if behind > 0:
        skew += behind
    if behind > 0 or behind < -CLOCK_RESOLUTION_MS // 2:
        connection.execute(update(schema.store).values(latest=wall + skew, skew=skew))


def to_milliseconds(moment: datetime) -> int:
    """A date as milliseconds since 1970."""
    return round(moment.timestamp() * 1000)


def from_milliseconds(value: int) -> datetime:
    """Milliseconds since 1970 as a date in UTC."""
    seconds, rest = divmod(value, 1000)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest * 1000)


_LEASE_TIME = _DatabaseTime() + schema.store.c.skew
LEASE_CLOCK = select(
    case((schema.store.c.latest < _LEASE_TIME, _LEASE_TIME), else_=schema.store.c.latest)
).scalar_subquery()
"""`StoreClock.now`, for a statement that need not read it first."""
SKEW = select(schema.store.c.skew).scalar_subquery()
"""`StoreClock.skew`."""
_READING = select(_DatabaseTime(), schema.store.c.latest, schema.store.c.skew)
