"""Redis commands and scripts for the services: the client's connection pool with the services' errors."""

from collections.abc import Sequence
from typing import Self

from pydantic import SecretStr

from gridcast._bus.lua_script import LuaScript
from gridcast._bus.redis import RedisArgument, RedisConnection, RedisPool, RedisReply
from gridcast._bus.redis_url import check_redis_url
from services.common.bus.errors import translated_bus_errors


class RedisClient:
    """Every method raises ServiceUnavailable for a failure of Redis, within the pool's time limits."""

    def __init__(self, pool: RedisPool) -> None:
        self.pool = pool

    @classmethod
    def from_url(cls, url: str) -> Self:
        """A client with its own pool, which connects on first use. Raises ValueError for any URL that is not of Redis."""
        return cls(RedisPool.from_url(url))

    async def execute(self, *command: RedisArgument) -> RedisReply:
        """Run one command. The reply is as redis-py returns it, strings as bytes."""
        with translated_bus_errors():
            return await self.pool.execute(*command)

    async def eval(self, script: LuaScript, keys: Sequence[str] = (), args: Sequence[RedisArgument] = ()) -> RedisReply:
        """Run `script` and return its reply. After a lost connection it is sent once more."""
        with translated_bus_errors():
            return await self.pool.eval(script, keys, args)

    async def ping(self) -> None:
        """Return once Redis has responded."""
        with translated_bus_errors():
            await self.pool.ping()

    async def aclose(self) -> None:
        """Close every connection."""
        await self.pool.aclose()

    def new_connection(self) -> RedisConnection:
        """A connection outside the pool, owned by the caller. It raises the client's errors: Subscription translates them."""
        return self.pool.new_connection()


def validate_redis_url(value: SecretStr) -> SecretStr:
    """Validate a setting. Raises ValueError with a sentence that contains no part of the URL."""
    check_redis_url(value.get_secret_value())
    return value
