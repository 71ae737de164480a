"""How many sockets the process may hold: raises its limit of open files as far as it is allowed to. It knows nothing else."""

import logging
import resource

RESERVED_DESCRIPTORS = 256
"""Open files that are no sockets of clients: Redis, HTTP, logs, and handshakes that are about to be refused."""

_log = logging.getLogger("gridcast.socket")


def raise_descriptor_limit(max_connections: int) -> int:
    """`wanted`, or fewer where the system allows no more. A process without files left cannot even refuse."""
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
