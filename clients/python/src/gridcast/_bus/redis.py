"""A pool of Redis connections with a time limit for each command and script, and single connections for subscriptions.

The one file that imports redis-py. Errors of Redis leave it as RedisUnavailable.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from typing import Any, Self, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from gridcast._bus.lua_script import LuaScript
from gridcast._bus.redis_url import check_redis_url
from gridcast.errors import RedisRefusesWrites, RedisUnavailable

try:
    from redis.asyncio import Redis as Client
    from redis.asyncio.connection import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError
    from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
    from redis.exceptions import TimeoutError as RedisTimeoutError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('redis-py is not installed: pip install "gridcast[redis]"', name=error.name) from error

REDIS_CONNECT_TIMEOUT_SECONDS = 1.0
REDIS_COMMAND_TIMEOUT_SECONDS = 1.5
"""A Redis that does not respond within this time is unavailable: the caller gets an error and does not wait."""
MAX_CONCURRENT_COMMANDS = 32
"""Commands in flight at once from one pool; more wait for a slot, within REDIS_COMMAND_TIMEOUT_SECONDS."""

_WRITE_REFUSALS = {
    "OOM": "Redis is full (maxmemory) and refuses writes",
    "READONLY": "Redis is read-only",
    "MISCONF": "Redis refuses writes: it cannot save its data to disk",
    "NOREPLICAS": "Redis refuses writes: too few replicas are connected to it",
}
# The code begins an error, save in those that Redis 6.2 makes of an error in a script: "... @user_script: 8: -OOM command ...".
_WRITE_REFUSAL_PATTERN = re.compile(r"(?:^| )-?(OOM|READONLY|MISCONF|NOREPLICAS) ")

_log = logging.getLogger("gridcast.redis")
RedisReply = Any
RedisArgument = str | bytes | int | float


class RedisPool:
    """A pool of connections that are opened on first use.

    Every method raises RedisUnavailable for a failure of Redis: at once where the connection is refused, within
    REDIS_COMMAND_TIMEOUT_SECONDS where Redis does not respond.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._client: Any = Client(connection_pool=pool)
        self._command_slots = asyncio.Semaphore(MAX_CONCURRENT_COMMANDS)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A pool for redis://, rediss:// or redis+sentinel://host:port,host:port/NAME/DB. Raises ValueError for any other URL.

        rediss+sentinel:// uses TLS to the Sentinels as well as to the servers that they name.
        """
        return cls(_create_pool(url))

    async def execute(self, *command: RedisArgument) -> RedisReply:
        """Run one command. The reply is as redis-py returns it, strings as bytes."""
        return await self._execute_with_timeout(self._client.execute_command(*command))

    async def eval(self, script: LuaScript, keys: Sequence[str] = (), args: Sequence[RedisArgument] = ()) -> RedisReply:
        """Run `script` and return its reply. It is sent again after a lost connection, so it must tolerate a second run."""
        return await self._execute_with_timeout(self._evalsha(script, keys, args))

    async def _evalsha(self, script: LuaScript, keys: Sequence[str], args: Sequence[RedisArgument]) -> RedisReply:
        try:
            return await self._client.execute_command("EVALSHA", script.sha1, len(keys), *keys, *args)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.source, len(keys), *keys, *args)

    async def ping(self) -> None:
        """Return once Redis has responded."""
        await self.execute("PING")

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._pool.disconnect()
        monitors: Any = getattr(self._pool, "sentinel_manager", None)
        for monitor in monitors.sentinels if monitors is not None else ():
            await monitor.aclose()

    def new_connection(self) -> "RedisConnection":
        """A connection outside the pool, owned by the caller and not yet open."""
        pool: Any = self._pool
        connection = pool.make_connection()
        connection.socket_timeout = None  # the caller passes a timeout to each read
        return RedisConnection(connection)

    async def _execute_with_timeout(self, operation: Any) -> RedisReply:
        try:
            async with asyncio.timeout(REDIS_COMMAND_TIMEOUT_SECONDS), self._command_slots:
                return await operation
        except TimeoutError:
            raise RedisUnavailable("Redis does not respond") from None
        except (RedisError, OSError, RuntimeError) as error:
            # uvloop raises RuntimeError where the connection was reset since its last use.
            raise _map_redis_error(error) from None
        finally:
            operation.close()


class RedisConnection:
    """One connection for a subscription, with separate sends and reads. RESP2: every reply is bytes, int or a list.

    Every method but `close` raises RedisUnavailable for a failure of the connection.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._closed = False

    async def connect(self) -> None:
        """Connect, authenticate and select the database."""
        try:
            async with asyncio.timeout(REDIS_CONNECT_TIMEOUT_SECONDS + REDIS_COMMAND_TIMEOUT_SECONDS):
                await self._connection.connect()
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            raise _map_redis_error(error) from None

    async def send(self, *command: str) -> None:
        """Send one command without waiting for the reply."""
        if self._closed:  # redis-py would reconnect, and no reader would take the replies
            raise RedisUnavailable("Redis is unavailable")
        try:
            await self._connection.send_command(*command, check_health=False)
        except (RedisError, OSError, AttributeError, RuntimeError) as error:
            # redis-py raises AttributeError, and uvloop RuntimeError, on a connection whose reset was not noticed yet.
            raise _map_redis_error(error) from None

    async def read_reply(self, timeout_seconds: float = REDIS_COMMAND_TIMEOUT_SECONDS) -> RedisReply:
        """The next reply, or None where none arrived in time; the connection stays usable."""
        try:
            return await self._connection.read_response(timeout=timeout_seconds)
        except (RedisError, OSError, AttributeError, RuntimeError) as error:
            # redis-py raises the last two where a failed send has closed the connection during this read.
            raise _map_redis_error(error) from None

    async def close(self) -> None:
        """Close without waiting for the peer."""
        self._closed = True
        await self._connection.disconnect(nowait=True)


def write_refusal(error_text: str) -> str:
    """Why Redis refuses writes, as a sentence, if its error `error_text` says that it does; otherwise an empty string."""
    found = _WRITE_REFUSAL_PATTERN.search(error_text)
    return _WRITE_REFUSALS[found[1]] if found else ""


def _map_redis_error(error: Exception) -> RedisUnavailable:
    """RedisUnavailable for any error. The text of a rejected command is logged, not passed on: it may name keys or users."""
    # redis-py removes the codes of the errors for which it has a class.
    code = "OOM " if isinstance(error, OutOfMemoryError) else "READONLY " if isinstance(error, ReadOnlyError) else ""
    if refusal := write_refusal(f"{code}{error}"):
        return RedisRefusesWrites(refusal)
    if not isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        _log.warning("Redis command failed: %s", error)
    return RedisUnavailable("Redis is unavailable")


def _create_pool(url: str) -> ConnectionPool:
    check_redis_url(url)
    try:
        pool = _build_pool(url)
        # Not connected: an unknown option of the URL is an argument that the constructor does not have.
        cast("Any", pool).make_connection()
    except (ValueError, TypeError, RedisError):
        # The text, and the error that caused it, may quote the URL and its password.
        raise ValueError("a Redis URL has an invalid part, or an option that redis-py does not know") from None
    return pool


def _build_pool(url: str) -> ConnectionPool:
    options: dict[str, Any] = {
        "protocol": 2,  # RESP2: the shape of replies does not depend on the versions of server and client
        "socket_connect_timeout": REDIS_CONNECT_TIMEOUT_SECONDS,
        # `_execute_with_timeout` sets the limit. redis-py's own limit uses `asyncio.wait_for`, which on Python 3.11 loses a
        # cancellation that arrives while the bytes are written: one command in a few hundred exceeded our limit.
        "socket_timeout": None,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 1, (RedisConnectionError, RuntimeError)),  # type: ignore[arg-type]  # accepts any exception type
    }
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"}:
        return ConnectionPool.from_url(url, **options)
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    query = dict(parse_qsl(parts.query))
    secure = parts.scheme == "rediss+sentinel"
    sentinel_class: Any = Sentinel
    pool_class: Any = SentinelConnectionPool
    sentinel = sentinel_class(
        [_parse_sentinel_address(host) for host in hosts.split(",")],
        sentinel_kwargs={
            "protocol": 2,
            "socket_connect_timeout": REDIS_CONNECT_TIMEOUT_SECONDS / 2,
            "socket_timeout": REDIS_CONNECT_TIMEOUT_SECONDS / 2,
            "ssl": secure,
            **({"password": query["sentinel_password"]} if "sentinel_password" in query else {}),
        },
    )
    # A query to a Sentinel may lose a cancellation as above; then this limit ends the command.
    options["socket_timeout"] = 2 * REDIS_COMMAND_TIMEOUT_SECONDS
    pool: ConnectionPool = pool_class(name, sentinel, db=int(database.strip("/") or 0), ssl=secure, **options)
    return pool


def _parse_sentinel_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if ":" in text.rpartition("]")[2] else (text, "", "")
    return host.strip("[]") or "localhost", int(port or 26379)
