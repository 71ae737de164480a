"""Who publishes a stream: kinds of publishers, which of them goes on where the last one was, and which is a second one. Pure.

The stored text is `KIND/SOURCE`. A writer that was killed before it stored the first step of a new source leaves the number of one
that has nothing, and the next writer begins it again. While the file of a stream is closed because its publisher goes on in another
one, `closing ` is in front of it: the request that comes next finishes that first (ADR 54).
"""

from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from services.common.errors import Conflict
from services.common.store.live_store import LiveStream

PublisherKind = Literal["tus", "body", "objects"]
ACTIVE_SECONDS = 5.0
"""A publisher that has sent nothing for so long is no reason to refuse another one."""


CLOSING = "closing "


def is_closing(stream: LiveStream) -> bool:
    """Whether the file of a stream is closed, and the stream goes on in another one."""
    return stream.state != "ended" and stream.publisher.startswith(CLOSING)


def publisher_of(stream: LiveStream) -> str:
    """Return who publishes a stream, also while its file is closed."""
    return stream.publisher.removeprefix(CLOSING)


class Turn(NamedTuple):
    """The publisher to store, and whether its bytes begin a source."""

    publisher: str
    begins: bool


def take_turn(stream: LiveStream, kind: PublisherKind, now: datetime, *, anew: bool) -> Turn:
    """Return how a publisher of that kind comes to a stream. `anew` says that its bytes begin a source in any case.

    Raises Conflict for a second publisher of a stream that was not made with takeover.
    """
    current = f"{kind}/{stream.position.source}"
    if publisher_of(stream) == current and not anew:
        return Turn(current, begins=False)
    if is_active(stream, now) and not stream.new.takeover:
        raise Conflict("another publisher sends to this stream", {"retry-after": str(int(ACTIVE_SECONDS))})
    return Turn(f"{kind}/{stream.position.source + 1}", begins=True)


def settle_turn(turn: Turn, stream: LiveStream) -> Turn:
    """Return the turn of a publisher at a stream as it was acquired.

    Another one may have begun a source between the two readings. It is fenced off by now, so who begins a source does so behind it:
    if both were refused, the stream would have no publisher. Raises Conflict where the publisher would have gone on with the source
    before.
    """
    source = stream.position.source + (1 if turn.begins else 0)
    if turn.publisher.endswith(f"/{source}"):
        return turn
    if not turn.begins:
        raise Conflict("another publisher has taken this stream")
    return Turn(f"{turn.publisher.partition('/')[0]}/{source}", begins=True)


def is_active(stream: LiveStream, now: datetime) -> bool:
    """Whether the stream has a publisher that has sent something of late."""
    if not stream.publisher or stream.advanced_at is None or stream.state == "interrupted":
        return False
    return now - stream.advanced_at < timedelta(seconds=ACTIVE_SECONDS)
