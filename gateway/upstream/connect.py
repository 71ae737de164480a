"""Opens a TCP connection to an upstream, within a timeout."""

import asyncio
import errno
from collections.abc import Callable
from typing import TypeVar

from gateway.upstream.upstream_pool import Address
from services.common.errors import ServiceUnavailable

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)

_RESOURCE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ConnectError(Exception):
    """The upstream could not be reached. Nothing was sent, so any request may be sent to another one."""


async def open_connection(
    loop: asyncio.AbstractEventLoop, protocol_factory: Callable[[], ProtocolT], address: Address, seconds: float
) -> tuple[asyncio.Transport, ProtocolT]:
    """Connect within `seconds`. Raises ConnectError.

    Raises ServiceUnavailable where the gateway is out of file descriptors, ports or memory: that is no failure of the upstream.
    """
    try:
        async with asyncio.timeout(seconds):
            return await loop.create_connection(protocol_factory, *address)
    except (OSError, TimeoutError) as error:
        if isinstance(error, OSError) and error.errno in _RESOURCE_ERRNOS:
            raise ServiceUnavailable("the gateway is out of file descriptors or ports") from error
        raise ConnectError(str(error) or "connect timeout") from error
