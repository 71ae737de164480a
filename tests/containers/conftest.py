"""Fixtures: the images, and compose projects on free ports, removed afterwards."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from deploy.local.ports import free_ports
from tests.support.compose_project import COMPOSE_FILES, ComposeProject, compose, docker

SCALE = {"upload": 2, "stream": 2, "socket": 3, "live": 2}


@pytest.fixture(scope="session")
def container_engine() -> None:
    """A container engine with Compose, of either generation."""
    try:
        subprocess.run(["docker", "info"], capture_output=True, check=True, timeout=30)
        compose()
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no container engine with Compose: {error}")


@pytest.fixture(scope="session")
def images(container_engine: None) -> dict[str, str]:
    """The images by target, built from this tree."""
    project = ComposeProject("gridcast-test-images", COMPOSE_FILES["base"], 0)
    project.run("build", timeout=900)
    return {target: f"gridcast/{target}:test" for target in ("upload", "stream", "socket", "live", "gateway", "setup")}


@contextlib.contextmanager
def run_project(kind: str) -> Iterator[ComposeProject]:
    (port,) = free_ports(1)
    project = ComposeProject(f"gridcast-test-{kind}-{os.getpid()}", COMPOSE_FILES[kind], port)
    try:
        project.up(**SCALE)
        yield project
    except BaseException:
        print(project.run("logs", "--no-color", "--tail", "30", check=False))
        raise
    finally:
        project.run("down", "-v", "--remove-orphans", timeout=300)
        left = docker("ps", "-aq", "--filter", f"label=com.docker.compose.project={project.name}")
        assert left == "", f"containers are left: {left}"


@pytest.fixture(scope="session", params=["base", "cluster"])
def compose_project(request: pytest.FixtureRequest, images: dict[str, str]) -> Iterator[ComposeProject]:
    """The stack of docker-compose.yml, then the one with the cluster override, scaled and ready. Each is started once."""
    with run_project(request.param) as project:
        yield project
