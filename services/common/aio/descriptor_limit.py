"""Raises the limit of open files of this process (RLIMIT_NOFILE), which bounds its sockets. The usual soft limit is 1,024."""

import logging
import resource

RESERVED_DESCRIPTORS = 256
"""Open files that are not sockets of clients: Redis, HTTP, logs, and handshakes that are about to be refused."""

_log = logging.getLogger("gridcast.socket")


def raise_descriptor_limit(max_connections: int) -> int:
    """Raise the soft limit as far as `max_connections` and RESERVED_DESCRIPTORS need.

    Returns `max_connections`, or fewer where the hard limit allows no more: a process without free descriptors cannot even refuse a
    connection.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return max_connections
    room = max(1, soft - RESERVED_DESCRIPTORS)
    _log.warning("RLIMIT_NOFILE allows %d connections instead of %d", room, max_connections)
    return room


def raise_descriptor_limit_to_maximum() -> None:
    """Raise the soft limit to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
