"""What this process remembers of streams between requests: their pace, their rate, and which warnings were sent. Bounded.

Nothing depends on it but comfort: another process begins anew.
"""

import time
from collections import OrderedDict
from dataclasses import dataclass, field

from services.live.stream_limits import Extent, Pacer, RateMeter

MAX_REMEMBERED_STREAMS = 1024


@dataclass(slots=True)
class StreamMemory:
    """What is remembered of one stream."""

    pacer: Pacer
    meter: RateMeter
    warned: set[str] = field(default_factory=set)

    def warn_once(self, kind: str) -> bool:
        """Whether a warning of this kind was not sent yet; it is from here on."""
        is_new = kind not in self.warned
        self.warned.add(kind)
        return is_new


class StreamMemories:
    """The memories of one process; the least recently used one is dropped first."""

    def __init__(self) -> None:
        self._memories: OrderedDict[str, StreamMemory] = OrderedDict()

    def get(self, stream_id: str, speed: float, extent: Extent) -> StreamMemory:
        """Return that of a stream, which begins at `extent` where there is none yet."""
        memory = self._memories.pop(stream_id, None)
        if memory is None:
            memory = StreamMemory(Pacer(speed, extent.seconds, time.monotonic()), RateMeter(extent))
        self._memories[stream_id] = memory
        if len(self._memories) > MAX_REMEMBERED_STREAMS:
            self._memories.popitem(last=False)
        return memory

    def forget(self, stream_id: str) -> None:
        """Drop that of a stream that has ended."""
        self._memories.pop(stream_id, None)
