"""The running compose stack from outside: its containers, their privileges, and that restarts lose nothing."""

import contextlib
import functools
import json
import time

import httpx
import pytest
from websockets.sync.client import connect

from tests.support.compose_project import EXAMPLE_COMPOSE_FILE, ComposeProject
from tests.support.traffic import CLOSE_SERVICE_RESTART, Traffic, find_lost_uploads
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

REPLICATED = ("stream", "upload", "socket", "live")

PUBLISHER_PROBE = """
import asyncio, os, pathlib, socket
from gridcast._bus.redis import RedisPool

PEERS = (("redis", 6379), ("mongo", 27017), ("gateway", 8000), ("1.1.1.1", 443))
COMMANDS = (
    "PING", "KEYS *", "SCAN 0", "CONFIG GET *", "SUBSCRIBE gridcast:all", "PUBLISH gridcast:invalidate []",
    "HSET gridcast:sid:x node y", "GET gridcast:sids",
)

def is_reached(peer):
    try:
        socket.create_connection(peer, timeout=2).close()
    except OSError:
        return False
    return True

async def is_allowed(command):
    pool = RedisPool.from_url(pathlib.Path(os.environ["REDIS_URL_FILE"]).read_text())
    try:
        await pool.execute(*command.split())
    except Exception:
        return False
    finally:
        await pool.aclose()
    return True

print("reached", [peer[0] for peer in PEERS if is_reached(peer)])
print("allowed", [command for command in COMMANDS if asyncio.run(is_allowed(command))])
print("user", os.getuid())
"""
"""Prints what a service of one's own reaches, and what it may do in Redis."""


def test_every_container_is_unprivileged_and_read_only(compose_project: ComposeProject) -> None:
    containers = compose_project.containers()
    assert len(containers) >= 10
    for container in containers:
        found = container.inspect()
        name, host = container.name, found["HostConfig"]
        user = found["Config"]["User"]
        assert user.partition(":")[0].isdigit(), name
        assert int(user.partition(":")[0]) > 0, name
        assert host["ReadonlyRootfs"] is True, name
        assert host["CapDrop"] == ["ALL"], name
        assert "no-new-privileges:true" in host["SecurityOpt"], name
        assert host["Memory"] > 0, name
        assert host["PidsLimit"] > 0, name
        written = container.exec("touch", "/new")
        assert "Read-only file system" in written.stderr, f"{name}: {written.stderr}"
        published = {port: to for port, to in found["NetworkSettings"]["Ports"].items() if to}
        if container.service == "gateway":
            assert [to["HostIp"] for to in published["8000/tcp"]] == ["127.0.0.1"]
        else:
            assert published == {}, name


def test_the_gateway_finds_every_replica(compose_project: ComposeProject) -> None:
    """Every stream replica gets requests, every socket replica holds connections."""
    httpx.put(f"{compose_project.url}/file/stream?filename=spread", content=b"x").raise_for_status()

    def all_were_asked() -> bool:
        for _ in range(20):
            httpx.get(f"{compose_project.url}/file/stream?filename=spread").raise_for_status()
        return all('"path": "/file/stream"' in replica.log() for replica in compose_project.containers("stream"))

    eventually(all_were_asked, 20.0, "each replica of stream was asked")
    address = compose_project.url.replace("http", "ws", 1) + "/ws"
    with contextlib.ExitStack() as opened:
        for _ in range(12):
            opened.enter_context(connect(address, proxy=None)).recv(5)
        present = httpx.get(f"{compose_project.url}/sockets").json()
    assert len({peer["replica"] for peer in present["sockets"] if peer["replica"]}) == 3


def test_redis_refuses_what_the_services_do_not_need(compose_project: ComposeProject) -> None:
    (redis,) = compose_project.containers("redis")
    assert "NOAUTH" in redis.exec("redis-cli", "ping").stdout
    ask = (
        "import asyncio, pathlib, sys\n"
        "from services.common.bus.redis import RedisClient\n"
        "async def main():\n"
        "    redis = RedisClient.from_url(pathlib.Path('/run/gridcast/redis_url').read_text())\n"
        "    await redis.ping()\n"
        "    for command in ('FLUSHALL', 'CONFIG GET *', 'KEYS *', 'GET other', 'SHUTDOWN'):\n"
        "        try:\n"
        "            await redis.execute(*command.split())\n"
        "        except Exception:\n"
        "            continue\n"
        "        sys.exit(command)\n"
        "asyncio.run(main())\n"
    )
    for container in compose_project.containers(*REPLICATED):
        done = container.exec("python", "-c", ask)
        assert done.returncode == 0, done.stderr


def test_a_service_of_ones_own_pushes_and_can_do_nothing_else(compose_project: ComposeProject) -> None:
    """The example: its events arrive; it reaches neither MongoDB nor the gateway nor the outside, and may only push in Redis."""
    files = [EXAMPLE_COMPOSE_FILE]
    compose_project.run("build", "billing", files=files, timeout=600)
    address = compose_project.url.replace("http", "ws", 1) + "/ws?topics=news"
    with connect(address, proxy=None) as browser:
        sid = json.loads(browser.recv(5))["sid"]
        said = compose_project.run("run", "--rm", "billing", "7", sid, files=files)
        assert said.count("status='sent'") == 3, said
        events = [json.loads(browser.recv(5)) for _ in range(3)]
    assert [event["type"] for event in events] == ["invoice.paid", "invoice.news", "invoice.yours"]
    assert {event["source"] for event in events} == {"/billing"}
    said = compose_project.run("run", "--rm", "--entrypoint", "python", "billing", "-c", PUBLISHER_PROBE, files=files)
    lines = [line.strip() for line in said.splitlines()]
    assert "reached ['redis']" in lines, said
    assert "allowed ['PING']" in lines, said
    assert "user 10001" in lines, said


def test_the_stream_service_cannot_write(compose_project: ComposeProject) -> None:
    ask = (
        "import os, pathlib, pymongo, pymongo.errors\n"
        "client = pymongo.MongoClient(pathlib.Path('/run/gridcast/mongodb_uri').read_text())\n"
        "print(client.gridcast.media.count_documents({}))\n"
        "try:\n"
        "    client.gridcast.media.delete_many({})\n"
        "except pymongo.errors.OperationFailure as error:\n"
        "    print(error.code)\n"
        "try:\n"
        "    client.other.media.find_one()\n"
        "except pymongo.errors.OperationFailure as error:\n"
        "    print(error.code)\n"
    )
    done = compose_project.containers("stream")[0].exec("python", "-c", ask)
    assert done.stdout.split()[1:] == ["13", "13"], done.stderr


@pytest.mark.parametrize("compose_project", ["base"], indirect=True)  # with the cluster nothing is different for these
def test_scaling_fails_no_request(compose_project: ComposeProject) -> None:
    """Two more stream replicas get requests once the gateway has resolved them; when all but one are stopped, no request fails."""
    traffic = Traffic(compose_project.url, listeners=1)
    with traffic.running() as log:
        eventually(lambda: log.read_statuses[200] > 20, 30.0, "load")
        compose_project.scale("stream", 4)
        replicas = compose_project.containers("stream")
        assert len(replicas) == 4
        for replica in replicas:
            asked = functools.partial(lambda one: '"path": "/file/stream"' in one.log(), replica)
            eventually(asked, 30.0, f"{replica.name} is asked")
        compose_project.scale("stream", 1)
        assert len(compose_project.containers("stream")) == 1
        before = log.counts()
        eventually(functools.partial(log.progressed_since, before), 30.0, "all goes on with one")
        compose_project.scale("stream", 2)
        eventually(lambda: all(one.is_healthy() for one in compose_project.containers("stream")), 60.0, "both are well")
    print(f"\n{len(log.acknowledged)} uploads acknowledged; reads {dict(log.read_statuses)}")
    assert log.failed_reads == []
    assert log.corrupt_reads == []
    assert find_lost_uploads(compose_project.url, log) == []


def test_rolling_restart_loses_no_data(compose_project: ComposeProject) -> None:
    """Restart the replicas of each service one by one under load: no safe request fails, every acknowledged upload is stored, every
    socket of a stopping replica is closed with 1012, resumes, and has received all events once.
    """
    traffic = Traffic(compose_project.url)
    with traffic.running() as log:
        eventually(
            lambda: log.read_statuses[200] > 20 and all(one.received_ids for one in traffic.listeners), 30.0, "load"
        )
        for container in compose_project.containers(*REPLICATED):
            took = container.restart()
            print(f"\n{container.name}: {took:.1f} s", end="")
            time.sleep(1)
        last = log.pushed_ids[-1]
        eventually(
            lambda: all(last in one.received_ids for one in traffic.listeners), 20.0, "everybody heard the last news"
        )
        accepted = list(log.pushed_ids[: log.pushed_ids.index(last) + 1])
    print(
        f"\n{len(log.acknowledged)} uploads acknowledged, {len(log.failed_uploads)} not; {sum(log.read_statuses.values())} reads; "
        f"{len(accepted)} news; closes {dict(log.close_codes)}; {log.failed_uploads}"
    )
    assert log.failed_reads == []
    assert log.corrupt_reads == []
    assert find_lost_uploads(compose_project.url, log) == []
    assert set(log.close_codes) == {CLOSE_SERVICE_RESTART}
    for listener in traffic.listeners:
        assert listener.gap_count == 0
        # From the first event on: it may have connected after the first push.
        heard = [news for news in listener.received_ids if news in set(accepted)]
        assert heard == accepted[accepted.index(heard[0]) :]
        assert accepted.index(heard[0]) < 10


def test_restart_of_each_database_and_the_gateway_loses_no_file(compose_project: ComposeProject) -> None:
    """During the restart requests fail; afterwards every acknowledged upload is stored, and all recovers without intervention:
    every listener resumes and receives what is pushed.
    """
    traffic = Traffic(compose_project.url, listeners=2)
    services = {container.service for container in compose_project.containers()} - set(REPLICATED)
    with traffic.running() as log:
        eventually(lambda: log.read_statuses[200] > 20, 30.0, "load")
        for container in compose_project.containers(*services):
            took = container.restart()
            print(f"\n{container.name}: {took:.1f} s", end="")
            before = log.counts()
            eventually(functools.partial(log.progressed_since, before), 60.0, f"all goes on after {container.name}")
            heard = functools.partial(all_listeners_received_since, traffic, before[2])
            eventually(heard, 30.0, f"all listen again after {container.name}")
    print(
        f"\n{len(log.acknowledged)} uploads acknowledged, {len(log.failed_uploads)} not; reads {dict(log.read_statuses)}"
    )
    assert log.corrupt_reads == []
    assert find_lost_uploads(compose_project.url, log) == []


def all_listeners_received_since(traffic: Traffic, count: int) -> bool:
    """Return whether each listener received an event that was pushed after the first `count`."""
    later = set(traffic.log.pushed_ids[count:])
    return all(later.intersection(one.received_ids) for one in traffic.listeners)


def test_down_and_up_keeps_the_data(compose_project: ComposeProject) -> None:
    """With other passwords of MongoDB, too."""
    data = b"stays" * 100_000
    httpx.put(f"{compose_project.url}/file/stream?filename=stays", content=data).raise_for_status()
    compose_project.run("down", timeout=300)
    compose_project.set_variables(
        MONGO_ROOT_PASSWORD="another-password-of-root", MONGO_UPLOAD_PASSWORD="another-one-of-upload"
    )
    compose_project.start()
    assert httpx.get(f"{compose_project.url}/file/stream?filename=stays").content == data
    httpx.put(f"{compose_project.url}/file/stream?filename=later", content=data).raise_for_status()


def test_dump_and_restore_with_the_job(compose_project: ComposeProject) -> None:
    """`backup` as docs/operations.md describes it."""
    data = b"again" * 100_000
    httpx.put(f"{compose_project.url}/file/stream?filename=again", content=data).raise_for_status()
    said = compose_project.run("run", "--rm", "backup", "dump", "/backup/first")
    assert "dump: media: " in said
    refused = compose_project.run("run", "--rm", "backup", "restore", "/backup/first", check=False)
    assert "restore into an empty database" in refused
