"""Simultaneous resumes of one sid over two replicas: the newest claim wins, and the directory says what is connected."""

import asyncio
from collections.abc import Iterator

import pytest
from websockets.exceptions import InvalidStatus

from tests.support.redis_commands import send_redis_commands
from tests.support.websocket_client import (
    SocketReplicas,
    WebSocketClient,
    http_client,
    push_message,
    run_socket_replicas,
)

pytestmark = pytest.mark.anyio
RESUMES = 10
ROUNDS = 6
BACKLOG = """EVAL "for i=1,30000 do redis.call('publish','gridcast:all','{\\\"sid\\\":\\\"\\\",\\\"type\\\":\\\"\\\"}') end" 0"""
"""Messages that put the subscriptions behind the commands, as load does: a notice arrives after the claim that outdates it."""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketReplicas]:
    with run_socket_replicas(tmp_path_factory.mktemp("takeover"), 2) as started:
        yield started


async def state_of(replicas: SocketReplicas, sid: str) -> str:
    async with http_client(replicas[0]) as asking:
        return str((await asking.get(f"/sockets/{sid}")).json()["state"])


async def test_newest_of_ten_resumes_stays_connected(replicas: SocketReplicas) -> None:
    """One connection stays of ten with one secret at two replicas; a push reaches it, and after its end the sid is away."""
    for turn in range(ROUNDS):
        client = await WebSocketClient.connect(replicas[turn % 2])
        send_redis_commands(replicas.redis.port, BACKLOG)
        attempts = [
            WebSocketClient.connect(replicas[number % 2], resume=client.resume_secret, after=client.last_sequence)
            for number in range(RESUMES)
        ]
        outcomes = await asyncio.gather(*attempts, return_exceptions=True)
        resumed = [outcome for outcome in outcomes if isinstance(outcome, WebSocketClient)]
        rejected = [outcome for outcome in outcomes if not isinstance(outcome, WebSocketClient)]
        assert all(isinstance(one, InvalidStatus) and one.response.status_code == 503 for one in rejected), rejected
        ends = [asyncio.create_task(one.wait_for_close_code(30)) for one in resumed]
        # Those that are superseded close at the next refresh at the latest, which is a second away.
        async with asyncio.timeout(8):
            while sum(not end.done() for end in ends) > 1:
                await asyncio.wait([end for end in ends if not end.done()], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        assert {end.result() for end in ends if end.done()} <= {1008}
        pushed = await push_message(replicas[turn % 2], client.sid, {"type": "t", "data": turn})
        assert pushed.json()["status"] == "sent"
        async with asyncio.timeout(5):
            while not any(one.events for one in resumed):  # their own tasks read
                assert not all(end.done() for end in ends), f"round {turn}: every connection is closed"
                await asyncio.sleep(0.01)
        assert await state_of(replicas, client.sid) == "online"
        for one in [*resumed, client]:
            one.abort()
        await asyncio.gather(*ends)
        async with asyncio.timeout(5):
            while await state_of(replicas, client.sid) == "online":  # noqa: ASYNC110  # written by the replica
                await asyncio.sleep(0.02)
