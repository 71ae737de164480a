"""The stack of deploy/compose.files.yml: without MongoDB, several replicas on one volume; restarts and a dump lose nothing."""

import functools
from collections.abc import Iterator

import httpx
import pytest

from tests.containers.conftest import run_project
from tests.e2e.test_user_journey import (  # noqa: F401  # collected here, against this stack
    folder,
    listeners,
    test_ffprobe_reads_over_http,
    test_invalid_input_is_explained_through_the_gateway,
    test_push_by_http_reaches_every_replica,
    test_upload_play_and_push,
)
from tests.support.compose_project import ComposeProject, docker
from tests.support.traffic import Traffic, find_lost_uploads
from tests.support.waiting import eventually

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def compose_project(images: dict[str, str]) -> Iterator[ComposeProject]:
    with run_project("files") as project:
        yield project


@pytest.fixture(scope="module")
def stack(compose_project: ComposeProject) -> ComposeProject:
    """Replaces the local stack."""
    return compose_project


def test_nothing_of_mongodb_runs(compose_project: ComposeProject) -> None:
    services = {container.service for container in compose_project.containers()}
    assert services == {"upload", "stream", "socket", "live", "gateway", "redis"}
    for container in compose_project.containers("upload", "stream"):
        found = container.exec("sh", "-c", "ls -ldn /var/lib/gridcast; env | grep -c MONGODB")
        assert found.stdout.split()[:4] == ["drwx------", found.stdout.split()[1], "10001", "10001"]
        assert found.stdout.split()[-1] == "0"


def test_rolling_restart_loses_no_file(compose_project: ComposeProject) -> None:
    """Replicas of upload and stream one by one, under load: they share the folder and the database."""
    traffic = Traffic(compose_project.url, listeners=1)
    with traffic.running() as log:
        eventually(lambda: log.read_statuses[200] > 20, 30.0, "load")
        for container in compose_project.containers("upload", "stream"):
            print(f"\n{container.name}: {container.restart():.1f} s", end="")
            eventually(
                functools.partial(log.progressed_since, log.counts()), 60.0, f"all goes on after {container.name}"
            )
    print(f"\n{len(log.acknowledged)} uploads acknowledged; reads {dict(log.read_statuses)}")
    assert log.failed_reads == []
    assert log.corrupt_reads == []
    assert find_lost_uploads(compose_project.url, log) == []


def test_dump_wipe_and_restore_with_the_job(compose_project: ComposeProject) -> None:
    """As docs/operations.md describes it."""
    data = b"again" * 100_000
    httpx.put(f"{compose_project.url}/file/stream?filename=again", content=data).raise_for_status()
    assert "dump: " in compose_project.run("run", "--rm", "backup", "dump", "/backup/first")
    refused = compose_project.run("run", "--rm", "backup", "restore", "/backup/first", check=False)
    assert "exists: restore into an empty folder" in refused
    compose_project.run("down", timeout=300)
    docker("volume", "rm", f"{compose_project.name}_files")
    assert "restore: " in compose_project.run("run", "--rm", "backup", "restore", "/backup/first")
    compose_project.start()
    assert httpx.get(f"{compose_project.url}/file/stream?filename=again").content == data
    httpx.put(f"{compose_project.url}/file/stream?filename=later", content=data).raise_for_status()
