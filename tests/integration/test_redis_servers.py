"""Each Redis server of this machine runs all Lua scripts and carries all pushes, for users with the rights of the containers."""

import dataclasses
import hashlib
import re
from pathlib import Path

import pytest

from deploy.containers import credentials
from deploy.example import billing
from deploy.local import databases
from deploy.local.binaries import REDIS_SERVER
from deploy.local.processes import Program
from gridcast._bus.lua_script import LuaScript
from gridcast._bus.wakeup import PUBLISH_EVENT
from services.common.bus.redis import RedisClient
from services.socket import scripts
from tests.support.databases import run_server
from tests.support.processes import StartService
from tests.support.redis_commands import send_redis_commands
from tests.support.redis_programs import find_redis_programs
from tests.support.websocket_client import WebSocketClient, http_client, push_message, skip_settling_period

pytestmark = pytest.mark.anyio
PROGRAMS = find_redis_programs()
SCRIPTS = [PUBLISH_EVENT, *(value for value in vars(scripts).values() if isinstance(value, LuaScript))]
SECRETS = {name: hashlib.sha256(name.encode()).hexdigest() for name in credentials.PASSWORDS}
REFUSED_BY_OLD_SERVERS = "client|setinfo"
"""Redis 7.0 has no such command; the client library sends it without waiting for its success."""


def test_the_wheel_brings_a_server_wherever_it_is_promised() -> None:
    assert (REDIS_SERVER.distribution in PROGRAMS) == REDIS_SERVER.has_wheel()


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
async def test_scripts_and_pushes(program: Path, tmp_path: Path, start_service: StartService) -> None:
    def with_users(folder: Path, port: int) -> Program:
        """With the default user besides, for the test itself."""
        usual = databases.redis_server(folder, port)
        users = "\n".join(credentials.redis_acl_file(SECRETS).splitlines()[1:])
        (folder / "users.acl").write_text(f"user default on nopass ~* &* +@all\n{users}\n", "ascii")
        arguments = (*usual.command[1:], "--aclfile", str(folder / "users.acl"))
        return dataclasses.replace(usual, command=(str(program), *arguments))

    with run_server(tmp_path / "redis", with_users) as redis:
        client = RedisClient.from_url(redis.url)
        try:
            for script in SCRIPTS:
                loaded = await client.execute("SCRIPT", "LOAD", script.source)
                assert loaded in {script.sha1, script.sha1.encode()}
            await client.execute("SCRIPT", "FLUSH")
        finally:
            await client.aclose()

        def url(user: str) -> str:
            return credentials.redis_url(user, SECRETS, {}).replace("@redis:6379", f"@127.0.0.1:{redis.port}")

        replicas = [start_service("services.socket", GRIDCAST_REDIS_URL=url("socket")) for _ in range(2)]
        skip_settling_period(redis)
        ann = await WebSocketClient.connect(replicas[0], topics="a")
        ben = await WebSocketClient.connect(replicas[1])
        assert (await ben.subscribe("b"))["topic"] == "b"
        for number, target in enumerate((ann.sid, ben.sid, "topic:a", "topic:b", "all")):
            answer = await push_message(replicas[number % 2], target, {"type": "t", "data": number})
            assert answer.is_success, answer.text
        assert [(await ann.receive_event())["data"] for _ in range(3)] == [0, 2, 4]
        assert [(await ben.receive_event())["data"] for _ in range(3)] == [1, 3, 4]

        ann.abort()
        await push_message(replicas[0], "topic:a", {"type": "t", "data": "missed"})
        await billing.push(url("publisher"), 7, ann.sid)
        again = await ann.reconnect(replicas[1])
        assert again.first_frame["recovered"] is True
        kinds = [(await again.receive_event())["type"] for _ in range(3)]
        assert sorted(kinds) == ["invoice.paid", "invoice.yours", "t"]
        async with http_client(replicas[0]) as http:
            assert {one["sid"] for one in (await http.get("/sockets")).json()["sockets"]} == {ann.sid, ben.sid}
            assert (await http.delete(f"/sockets/{ben.sid}")).is_success
        assert await ben.wait_for_close_code() in {1000, 1008}
        await again.close()

        counted = send_redis_commands(redis.port, "INFO commandstats")
        failed = {
            name: int(rejected) + int(failures)
            for name, rejected, failures in re.findall(
                r"cmdstat_(\S+?):.*rejected_calls=(\d+),failed_calls=(\d+)", counted
            )
        }
        unloaded = re.findall(r"errorstat_NOSCRIPT:count=(\d+)", send_redis_commands(redis.port, "INFO errorstats"))
        assert failed.pop("evalsha") == int(unloaded[0]), (
            "the first call of a script, before it is loaded, and no other"
        )
        failed.pop(REFUSED_BY_OLD_SERVERS, None)
        failed.pop("client", None)
        assert {name for name, count in failed.items() if count} == set(), counted
