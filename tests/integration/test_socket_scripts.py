"""Redis accepts each Lua script of the socket service, under the SHA-1 by which it is called."""

import pytest

from gridcast._bus.lua_script import LuaScript
from services.common.bus.redis import RedisClient
from services.socket import scripts

pytestmark = pytest.mark.anyio
SCRIPTS = {name: value for name, value in vars(scripts).items() if isinstance(value, LuaScript)}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
async def test_redis_loads_the_script(redis_url: str, script: LuaScript) -> None:
    client = RedisClient.from_url(redis_url)
    try:
        assert await client.execute("SCRIPT", "LOAD", script.source) in {script.sha1, script.sha1.encode()}
    finally:
        await client.aclose()
