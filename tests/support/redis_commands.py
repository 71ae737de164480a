"""Inline commands to a Redis server or a Sentinel, without a client library between."""

import socket


def send_redis_commands(port: int, *commands: str) -> str:
    """Send the commands one after the other on one connection and return the raw reply (RESP2) to the last one.

    For replies of at most 64 KiB: each is taken as it arrives in one read.
    """
    reply = ""
    with socket.create_connection(("127.0.0.1", port), timeout=5.0) as connection:
        for command in commands:
            connection.sendall(f"{command}\r\n".encode())
            reply = connection.recv(65536).decode()
    return reply
