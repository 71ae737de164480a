"""What PostgreSQL alone needs: its engine, and how a row that a stopped or unreachable process has locked becomes free.

The server keeps the locks of a session for as long as it waits for its client, unless a limit of the session ends it:

    the network or the host of the client is gone      TCP's own probes, in every state              8 s
    the client stops between two statements            `idle_in_transaction_session_timeout`         8 s
    it stops between Parse and Bind of a statement     `end_stalled_sessions`                        5 s

asyncpg sends a statement that is new to a connection in two steps, and waits for the answer to the first. The session is "active"
then, not "idle in transaction", and `statement_timeout` is held off while the server reads: with 3 s a row was locked for 14 s and
more. `transaction_timeout` would count, from PostgreSQL 17 on.
"""

import logging

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

CONNECT_TIMEOUT_SECONDS = 2.5
POSTGRESQL_CONNECTIONS = 10
"""Of one process."""
APPLICATION_NAME = "gridcast"
KEEPALIVE_IDLE_SECONDS = 4
KEEPALIVE_INTERVAL_SECONDS = 2
"""Probes are sent after 4, 6 and 8 s; by default after two hours, and data is sent again for a quarter of an hour."""
STALLED_SECONDS = 4.0
"""A client goes on from Parse to Bind within a round trip. Less than a wait for a lock: the first one in vain ends the session."""
LOCK_NOT_AVAILABLE_STATE = "55P03"

_log = logging.getLogger("gridcast.store")

_END_STALLED = text(
    """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND application_name = :application
    AND state = 'active' AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - make_interval(secs => :seconds)"""
)


def create_postgresql_engine(url: URL, operation_timeout: float, lock_timeout_ms: int) -> AsyncEngine:
    """Return an engine. `operation_timeout` in seconds is that of a statement, and of a transaction whose client does nothing."""
    return create_async_engine(
        url,
        pool_size=POSTGRESQL_CONNECTIONS,
        max_overflow=0,
        pool_timeout=operation_timeout,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT_SECONDS,
            "command_timeout": operation_timeout,
            "server_settings": {
                "application_name": APPLICATION_NAME,
                "lock_timeout": f"{lock_timeout_ms}ms",
                "timezone": "UTC",
                # A transaction whose process was paused must not keep its locks for ever.
                "idle_in_transaction_session_timeout": f"{int(operation_timeout)}s",
                "tcp_keepalives_idle": f"{KEEPALIVE_IDLE_SECONDS}s",
                "tcp_keepalives_interval": f"{KEEPALIVE_INTERVAL_SECONDS}s",
                "tcp_user_timeout": f"{int(operation_timeout)}s",
            },
        },
    )


def end_stalled_sessions(connection: Connection) -> None:
    """End sessions of other processes that have stopped in the middle of a statement. To be called after a wait for a lock in vain.

    What they have not committed is rolled back; their processes get an error for it if they go on.
    """
    values = {"application": APPLICATION_NAME, "seconds": STALLED_SECONDS}
    if ended := len(connection.execute(_END_STALLED, values).all()):
        _log.warning("ended %d database sessions of processes that have stopped: they may have kept rows locked", ended)
