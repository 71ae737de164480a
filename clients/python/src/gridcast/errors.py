"""The errors that this package raises. Each text names a cause and holds no address and no password.

PublishError
+- InvalidEvent         the event breaks a rule of docs/messages.md (also a ValueError)
|   +- EventTooLarge    the encoded event exceeds 64 KiB
+- RedisUnavailable     Redis refused the connection or the command, or did not respond in time
    +- RedisRefusesWrites   Redis is full, read-only, cannot save its data, or has too few replicas; the text says which
    +- SessionsNotReady     sessions are not registered yet, because Redis has just restarted or has just refused writes
"""


class PublishError(Exception):
    """The root of the tree: no event was published, or it is not known whether one was."""


class InvalidEvent(PublishError, ValueError):
    """A type, topic, id, key or data that the rules do not permit. Nothing was sent to Redis."""


class EventTooLarge(InvalidEvent):
    """The encoded event exceeds the size limit. Nothing was sent to Redis."""


class RedisUnavailable(PublishError):
    """Redis is unavailable. The event may or may not have been published: publish it again with the same `id`."""


class RedisRefusesWrites(RedisUnavailable):
    """Redis responds and takes no writes. The text names the reason. Nothing was published."""


class SessionsNotReady(RedisUnavailable):
    """Redis does not know the sid, and a replica may still register it: Redis has started, or has taken writes again, less than 5 s
    ago. Nothing was published.
    """
