"""A process that changes the row of `store` in PostgreSQL and stops before its transaction ends, as a replica does that is stopped.

`python -m tests.support.stalled_writer URL FOLDER POINT [deaf]`; POINT is `idle`: between two statements, or `parsed`: between
Parse and Bind of the second one. With `deaf` nothing reaches it any more either, as where its network or its host is gone: the
kernel drops what comes for its connections, and acknowledges nothing. It prints "holding" when it stops, then how the transaction
ended.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import select, update

from services.common.errors import ServiceUnavailable
from services.common.store.files import schema
from services.common.store.files.database import Transaction, open_database

SO_ATTACH_FILTER = 26
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
"""The program `return 0` of a socket filter: no byte of any packet is taken."""


def deafen(connection: socket.socket) -> None:
    """Let the kernel drop every packet that comes for a connection."""
    program = ctypes.create_string_buffer(DROP_ALL)
    connection.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))


def open_connections() -> list[socket.socket]:
    """The TCP connections of this process."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            one = socket.socket(fileno=os.dup(int(path.name)))
            if one.family == socket.AF_INET and one.getpeername():
                found.append(one)
    return found


def stop(*, deaf: bool) -> None:
    for connection in open_connections() if deaf else ():
        deafen(connection)
    print("holding", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


async def main(url: str, folder: str, point: str, *options: str) -> None:
    deaf, is_parsed = "deaf" in options, False
    prepare = asyncpg.Connection.prepare

    async def prepare_and_stop(*given: Any, **named: Any) -> Any:
        statement = await prepare(*given, **named)
        if is_parsed:
            stop(deaf=deaf)
        return statement

    asyncpg.Connection.prepare = prepare_and_stop

    def change(transaction: Transaction) -> None:
        nonlocal is_parsed
        transaction.connection.execute(update(schema.store).values(touched=1_000_000))
        is_parsed = point == "parsed"
        if not is_parsed:
            stop(deaf=deaf)
        transaction.connection.execute(select(schema.store.c.touched).where(schema.store.c.touched > 1))

    database = open_database(url, folder)
    try:
        await database.write(change)
        print("committed", flush=True)
    except ServiceUnavailable as error:
        print(error.detail, flush=True)
    await database.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
