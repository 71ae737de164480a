"""The containers' health check: whether this process says that it is ready. Exits with 0 or 1; knows no service.

Plain sockets, since it is started every few seconds: an HTTP client would take five times as long to import.
"""

import os
import socket
import sys

TIMEOUT = 3.0


def main() -> int:
    """Ask /readyz."""
    host = os.environ.get("GRIDCAST_HOST", "127.0.0.1")
    port = int(os.environ.get("GRIDCAST_PORT", "8000"))
    address = "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104  # only compared with
    try:
        with socket.create_connection((address, port), TIMEOUT) as connection:
            connection.settimeout(TIMEOUT)
            connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = b""
            while part := connection.recv(4096):
                answer += part
    except OSError as error:
        print(f"no answer: {error}")
        return 1
    head, _, body = answer.partition(b"\r\n\r\n")
    print(body.decode("utf-8", "replace"))
    return 0 if head.startswith(b"HTTP/1.1 200 ") else 1


if __name__ == "__main__":
    sys.exit(main())
