"""The health check of the containers: exits with 0 if /readyz of this container responds with 200, else with 1.

It uses plain sockets, because it is started every few seconds: the import of an HTTP client would take five times as long.
"""

import os
import socket
import sys

TIMEOUT = 3.0
"""Seconds to connect, and for each read."""


def main() -> int:
    """Request /readyz and print its body."""
    host = os.environ.get("GRIDCAST_HOST", "127.0.0.1")
    port = int(os.environ.get("GRIDCAST_PORT", "8000"))
    address = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104  # only compared with
    try:
        with socket.create_connection((address, port), TIMEOUT) as connection:
            connection.settimeout(TIMEOUT)
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            response = b""
            while part := connection.recv(4096):
                response += part
    except OSError as error:
        print(f"no response: {error}")
        return 1
    head, _, body = response.partition(b"\r\n\r\n")
    print(body.decode("utf-8", "replace"))
    return 0 if head.startswith(b"HTTP/1.1 200 ") else 1


if __name__ == "__main__":
    sys.exit(main())
