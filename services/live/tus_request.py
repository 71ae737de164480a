"""What the head of a tus request to a live stream says, and whether its bytes are the next ones of its source. Pure."""

from dataclasses import dataclass

from services.common.errors import Conflict, Gone
from services.common.store.live_store import LiveStream
from services.live.publishers import Turn

COMPLETE = "complete"
"""The reason of an end that the sender has announced by its length."""


@dataclass(frozen=True, slots=True)
class TusRequest:
    """What the head of a PATCH says: `offset` and `length` in bytes of the sender; `length` None while the sender goes on.

    `source` is that of the address, None where it names none.
    """

    offset: int
    length: int | None
    source: int | None

    def check(self, stream: LiveStream, turn: Turn) -> None:
        """Raise Conflict where the bytes are not the next ones of the source."""
        durable = 0 if turn.begins else stream.position.sender_offset
        if self.source is not None and self.source != stream.position.source + turn.begins:
            raise Conflict("another publisher has taken this stream")
        self.check_offset(durable)

    def check_offset(self, durable: int) -> None:
        """Raise Conflict, with the offset that is expected, where it is another one."""
        if self.offset != durable:
            raise Conflict(f"the stream is at offset {durable}", {"upload-offset": str(durable)})

    def replay(self, stream: LiveStream) -> int:
        """Return the offset of a complete source. Raises Conflict with it for another one, Gone where the sender did not end it."""
        if stream.reason != COMPLETE:
            raise Gone("this stream has ended")
        self.check_offset(stream.position.sender_offset)
        return self.offset
