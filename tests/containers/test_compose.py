"""The compose stack for real, from outside: what runs, how it is held, and that restarts and a new start lose nothing."""

import contextlib
import functools
import time

import httpx
import pytest
from websockets.sync.client import connect

from tests.containers.project import Project
from tests.containers.traffic import GOODBYE, Traffic, missing
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

REPLICATED = ("stream", "upload", "socket")


def test_every_container_is_unprivileged_and_read_only(project: Project) -> None:
    containers = project.containers()
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


def test_the_gateway_finds_every_replica(project: Project) -> None:
    """Every replica of stream answers, every replica of socket holds connections."""
    httpx.put(f"{project.url}/file/stream?filename=spread", content=b"x").raise_for_status()

    def all_were_asked() -> bool:
        for _ in range(20):
            httpx.get(f"{project.url}/file/stream?filename=spread").raise_for_status()
        return all('"path": "/file/stream"' in replica.log() for replica in project.containers("stream"))

    eventually(all_were_asked, 20.0, "each replica of stream was asked")
    address = project.url.replace("http", "ws", 1) + "/ws"
    with contextlib.ExitStack() as opened:
        for _ in range(12):
            opened.enter_context(connect(address, proxy=None)).recv(5)
        present = httpx.get(f"{project.url}/sockets").json()
    assert len({peer["replica"] for peer in present["sockets"] if peer["replica"]}) == 3


def test_redis_refuses_what_the_services_do_not_need(project: Project) -> None:
    (redis,) = project.containers("redis")
    assert "NOAUTH" in redis.exec("redis-cli", "ping").stdout
    ask = (
        "import asyncio, pathlib, sys\n"
        "from services.common.bus.redis import Redis\n"
        "async def main():\n"
        "    redis = Redis.open(pathlib.Path('/run/gridcast/redis_url').read_text())\n"
        "    await redis.ping()\n"
        "    for command in ('FLUSHALL', 'CONFIG GET *', 'KEYS *', 'GET other', 'SHUTDOWN'):\n"
        "        try:\n"
        "            await redis.call(*command.split())\n"
        "        except Exception:\n"
        "            continue\n"
        "        sys.exit(command)\n"
        "asyncio.run(main())\n"
    )
    for container in project.containers(*REPLICATED):
        done = container.exec("python", "-c", ask)
        assert done.returncode == 0, done.stderr


def test_the_stream_service_cannot_write(project: Project) -> None:
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
    done = project.containers("stream")[0].exec("python", "-c", ask)
    assert done.stdout.split()[1:] == ["13", "13"], done.stderr


@pytest.mark.parametrize("project", ["base"], indirect=True)  # with the cluster nothing is different for these
def test_replicas_come_and_go_while_all_goes_on(project: Project) -> None:
    """Two more of stream are asked as soon as the gateway has heard of them; when all but one have gone no request fails."""
    traffic = Traffic(project.url, listeners=1)
    with traffic.running() as log:
        eventually(lambda: log.reads[200] > 20, 30.0, "load")
        project.scale("stream", 4)
        replicas = project.containers("stream")
        assert len(replicas) == 4
        for replica in replicas:
            asked = functools.partial(lambda one: '"path": "/file/stream"' in one.log(), replica)
            eventually(asked, 30.0, f"{replica.name} is asked")
        project.scale("stream", 1)
        assert len(project.containers("stream")) == 1
        before = log.done()
        eventually(functools.partial(log.went_on, before), 30.0, "all goes on with one")
        project.scale("stream", 2)
        eventually(lambda: all(one.is_well() for one in project.containers("stream")), 60.0, "both are well")
    print(f"\n{len(log.acknowledged)} uploads acknowledged; reads {dict(log.reads)}")
    assert log.faults == []
    assert log.wrong == []
    assert missing(project.url, log) == []


def test_a_rolling_restart_loses_nothing(project: Project) -> None:
    """The replicas of each service one by one, under load: no safe request fails, every acknowledged upload is there, every
    socket of a draining replica is told 1012, comes back, and has heard all news once.
    """
    traffic = Traffic(project.url)
    with traffic.running() as log:
        eventually(lambda: log.reads[200] > 20 and all(one.heard for one in traffic.listeners), 30.0, "load")
        for container in project.containers(*REPLICATED):
            took = container.restart()
            print(f"\n{container.name}: {took:.1f} s", end="")
            time.sleep(1)
        last = log.pushed[-1]
        eventually(lambda: all(last in one.heard for one in traffic.listeners), 20.0, "everybody heard the last news")
        accepted = list(log.pushed[: log.pushed.index(last) + 1])
    print(
        f"\n{len(log.acknowledged)} uploads acknowledged, {len(log.refused)} not; {sum(log.reads.values())} reads; "
        f"{len(accepted)} news; closes {dict(log.closes)}; {log.refused}"
    )
    assert log.faults == []
    assert log.wrong == []
    assert missing(project.url, log) == []
    assert set(log.closes) == {GOODBYE}
    for listener in traffic.listeners:
        assert listener.forgotten == 0
        # From its first one on: it may have connected after the first push.
        heard = [news for news in listener.heard if news in set(accepted)]
        assert heard == accepted[accepted.index(heard[0]) :]
        assert accepted.index(heard[0]) < 10


def test_a_restart_of_each_server_and_of_the_gateway_loses_no_file(project: Project) -> None:
    """While they are away requests are refused; afterwards everything that was acknowledged is there, and all goes on by itself:
    every listener is back and hears what is pushed.
    """
    traffic = Traffic(project.url, listeners=2)
    services = {container.service for container in project.containers()} - set(REPLICATED)
    with traffic.running() as log:
        eventually(lambda: log.reads[200] > 20, 30.0, "load")
        for container in project.containers(*services):
            took = container.restart()
            print(f"\n{container.name}: {took:.1f} s", end="")
            before = log.done()
            eventually(functools.partial(log.went_on, before), 60.0, f"all goes on after {container.name}")
            heard = functools.partial(everybody_heard_since, traffic, before[2])
            eventually(heard, 30.0, f"all listen again after {container.name}")
    print(f"\n{len(log.acknowledged)} uploads acknowledged, {len(log.refused)} not; reads {dict(log.reads)}")
    assert log.wrong == []
    assert missing(project.url, log) == []


def everybody_heard_since(traffic: Traffic, count: int) -> bool:
    """Whether each listener heard something that was pushed after the first so many."""
    later = set(traffic.log.pushed[count:])
    return all(later.intersection(one.heard) for one in traffic.listeners)


def test_down_and_up_keeps_the_data(project: Project) -> None:
    """With other passwords of MongoDB, too."""
    data = b"stays" * 100_000
    httpx.put(f"{project.url}/file/stream?filename=stays", content=data).raise_for_status()
    project.run("down", timeout=300)
    project.set(MONGO_ROOT_PASSWORD="another-password-of-root", MONGO_UPLOAD_PASSWORD="another-one-of-upload")
    project.start()
    assert httpx.get(f"{project.url}/file/stream?filename=stays").content == data
    httpx.put(f"{project.url}/file/stream?filename=later", content=data).raise_for_status()


def test_dump_and_restore_with_the_job(project: Project) -> None:
    """`backup` as docs/operations.md tells it."""
    data = b"again" * 100_000
    httpx.put(f"{project.url}/file/stream?filename=again", content=data).raise_for_status()
    said = project.run("run", "--rm", "backup", "dump", "/backup/first")
    assert "dump: media: " in said
    refused = project.run("run", "--rm", "backup", "restore", "/backup/first", check=False)
    assert "restore into an empty database" in refused
