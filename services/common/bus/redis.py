"""Opens Redis, the one file that names redis-py: commands and scripts with a time limit, and single connections.

It knows no key and no channel of ours. Faults leave it as `errors.Unavailable`.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis as Client
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.common.errors import ServiceUnavailable

REDIS_CONNECT_TIMEOUT_SECONDS = 1.0
REDIS_COMMAND_TIMEOUT_SECONDS = 1.5
"""A Redis that is silent for longer counts as away: a request that needs it is answered 503, not held."""
MAX_CONCURRENT_COMMANDS = 32
"""Commands under way at once from one process; more wait their turn inside REDIS_COMMAND_TIMEOUT_SECONDS."""

_log = logging.getLogger("gridcast.redis")
RedisReply = Any
RedisArgument = str | bytes | int | float


@dataclass(frozen=True)
class LuaScript:
    """A Lua script, called by its SHA-1 and sent in full only to a server that does not hold it yet."""

    source: str
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts by SHA-1; nothing rests on its strength.
        object.__setattr__(self, "sha1", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())


class RedisClient:
    """One client. It connects when first used; a refused Redis fails at once, a silent one within REDIS_COMMAND_TIMEOUT_SECONDS."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._client: Any = Client(connection_pool=pool)
        self._command_slots = asyncio.Semaphore(MAX_CONCURRENT_COMMANDS)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Raises ValueError unless `url` is redis://, rediss:// or redis+sentinel://host:port,host:port/NAME/DB.

        rediss+sentinel:// is TLS to the Sentinels as well as to the servers that they name.
        """
        return cls(_create_pool(url))

    async def execute(self, *command: RedisArgument) -> RedisReply:
        """One command; its reply as redis-py gives it, strings as bytes."""
        return await self._execute_with_timeout(self._client.execute_command(*command))

    async def eval(self, script: LuaScript, keys: Sequence[str] = (), args: Sequence[RedisArgument] = ()) -> RedisReply:
        """The reply of `script`. A lost connection is tried once more: a script must bear to run twice."""
        return await self._execute_with_timeout(self._evalsha(script, keys, args))

    async def _evalsha(self, script: LuaScript, keys: Sequence[str], args: Sequence[RedisArgument]) -> RedisReply:
        try:
            return await self._client.execute_command("EVALSHA", script.sha1, len(keys), *keys, *args)
        except NoScriptError:
            return await self._client.execute_command("EVAL", script.source, len(keys), *keys, *args)

    async def ping(self) -> None:
        """Return where Redis answers, raise Unavailable where it does not."""
        await self.execute("PING")

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._pool.disconnect()
        watchers: Any = getattr(self._pool, "sentinel_manager", None)
        for watcher in watchers.sentinels if watchers is not None else ():
            await watcher.aclose()

    def new_connection(self) -> "RedisConnection":
        """A connection that belongs to the caller alone, not yet open."""
        pool: Any = self._pool
        connection = pool.make_connection()
        connection.socket_timeout = None  # the caller says how long to read
        return RedisConnection(connection)

    async def _execute_with_timeout(self, operation: Any) -> RedisReply:
        try:
            async with asyncio.timeout(REDIS_COMMAND_TIMEOUT_SECONDS), self._command_slots:
                return await operation
        except TimeoutError:
            raise ServiceUnavailable("Redis does not respond") from None
        except (RedisError, OSError, RuntimeError) as error:
            # The last is uvloop's where the connection was reset since it was last used.
            raise _map_redis_error(error) from None
        finally:
            operation.close()


class RedisConnection:
    """One connection, for who sends and reads on his own (a subscription). RESP2: every reply is bytes, int or a list."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._closed = False

    async def connect(self) -> None:
        """Connect, log in, choose the database."""
        try:
            async with asyncio.timeout(REDIS_CONNECT_TIMEOUT_SECONDS + REDIS_COMMAND_TIMEOUT_SECONDS):
                await self._connection.connect()
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:
            raise _map_redis_error(error) from None

    async def send(self, *command: str) -> None:
        """Send, without waiting for the reply."""
        if self._closed:  # redis-py would open it again, and nobody would read it
            raise ServiceUnavailable("Redis is unavailable")
        try:
            await self._connection.send_command(*command, check_health=False)
        except (RedisError, OSError, AttributeError, RuntimeError) as error:
            # The last two are uvloop's and redis-py's where the connection was reset and nobody has noticed yet.
            raise _map_redis_error(error) from None

    async def read_reply(self, timeout_seconds: float = REDIS_COMMAND_TIMEOUT_SECONDS) -> RedisReply:
        """The next reply, or None where none came in time; the line stays usable."""
        try:
            return await self._connection.read_response(timeout=timeout_seconds)
        except (RedisError, OSError, AttributeError, RuntimeError) as error:
            # The last two are redis-py's when its sender has closed the connection under its reader.
            raise _map_redis_error(error) from None

    async def close(self) -> None:
        """Close at once."""
        self._closed = True
        await self._connection.disconnect(nowait=True)


def _map_redis_error(error: Exception) -> ServiceUnavailable:
    """What a fault of Redis is to everyone else. The text of a refused command goes to the log, not to a client."""
    if not isinstance(error, (RedisConnectionError, RedisTimeoutError, OSError)):
        _log.warning("Redis command failed: %s", error)
    return ServiceUnavailable("Redis is unavailable")


def _create_pool(url: str) -> ConnectionPool:
    options: dict[str, Any] = {
        "protocol": 2,  # replies that do not change shape between servers and versions of the client
        "socket_connect_timeout": REDIS_CONNECT_TIMEOUT_SECONDS,
        # The limit is ours in `_guarded`. Theirs sends through `asyncio.wait_for`, which on Python 3.11 loses a cancellation
        # that comes as the bytes leave: one in a few hundred went on past our limit.
        "socket_timeout": None,
        "socket_keepalive": True,
        "retry": Retry(NoBackoff(), 1, (RedisConnectionError, RuntimeError)),  # type: ignore[arg-type]  # takes any exception
    }
    parts = urlsplit(url)
    if parts.scheme in {"redis", "rediss"}:
        return ConnectionPool.from_url(url, **options)
    if parts.scheme not in {"redis+sentinel", "rediss+sentinel"}:
        raise ValueError("a Redis URL begins with redis://, rediss://, redis+sentinel:// or rediss+sentinel://")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    name, _, database = parts.path.strip("/").partition("/")
    if not name or not hosts:
        raise ValueError("a Sentinel URL is redis+sentinel://host:port,host:port/NAME/DB")
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
    # Asking a Sentinel may lose a cancellation as above; what follows must then end by itself.
    options["socket_timeout"] = 2 * REDIS_COMMAND_TIMEOUT_SECONDS
    pool: ConnectionPool = pool_class(name, sentinel, db=int(database or 0), ssl=secure, **options)
    return pool


def _parse_sentinel_address(text: str) -> tuple[str, int]:
    host, _, port = text.partition(":")
    return host or "localhost", int(port or 26379)
