"""Numbered events to everyone, to one sid and to a topic, for tests of clients that must not lose one."""

from gridcast.publish import Publisher


class ClockEvents:
    """Pushes `clock.all`, `clock.mine` and `clock.hours` with the numbers from 0 on. `count` is how many of each were pushed."""

    def __init__(self, publisher: Publisher, sid: str) -> None:
        self._publisher = publisher
        self._sid = sid
        self.count = 0

    async def push_some(self) -> None:
        """Push ten of each."""
        for _ in range(10):
            await self._publisher.broadcast("clock.all", self.count)
            await self._publisher.send(self._sid, "clock.mine", self.count)
            await self._publisher.publish("hours", "clock.hours", self.count)
            self.count += 1
