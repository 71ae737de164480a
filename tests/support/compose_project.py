"""A compose project with its commands, containers and published address, for tests of the images and compose files."""

import atexit
import functools
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from deploy.local.processes import PROJECT_ROOT
from tests.support.waiting import eventually

EXAMPLE_COMPOSE_FILE = "deploy/example/compose.yml"
COMPOSE_FILES = {
    "base": ["docker-compose.yml"],
    "cluster": ["docker-compose.yml", "deploy/compose.cluster.yml"],
    "files": ["deploy/compose.files.yml"],
}
IMAGE_TAG = "test"


def docker(*arguments: str, timeout: float = 120) -> str:
    """Run a docker command and return its standard output. Raises AssertionError where it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


@functools.cache
def compose() -> tuple[str, ...]:
    """The command: `docker compose`, else `docker-compose`."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False, timeout=30)
    if plugin.returncode == 0:
        return ("docker", "compose")
    subprocess.run(["docker-compose", "--version"], capture_output=True, check=True, timeout=30)
    return ("docker-compose",)


BUILD_CONTEXT = (
    ".dockerignore",
    "clients/js/src",
    "clients/python",
    "deploy",
    "docker-compose.yml",
    "gateway",
    "requirements",
    "services",
)


@functools.cache
def source_copy() -> Path:
    """A copy of the build context with the permissions of a clone under a umask of 077, readable by its owner alone."""
    folder = Path(tempfile.mkdtemp(prefix="gridcast-tree-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for part in BUILD_CONTEXT:
        if (PROJECT_ROOT / part).is_dir():
            shutil.copytree(PROJECT_ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT_ROOT / part, folder / part)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    return folder


class Container:
    """A container, inspected through the engine."""

    def __init__(self, identifier: str) -> None:
        self.id = identifier

    def inspect(self) -> dict[str, Any]:
        found: list[dict[str, Any]] = json.loads(docker("inspect", self.id))
        return found[0]

    @property
    def service(self) -> str:
        return str(self.inspect()["Config"]["Labels"]["com.docker.compose.service"])

    @property
    def name(self) -> str:
        return str(self.inspect()["Name"]).strip("/")

    def is_healthy(self) -> bool:
        """Return whether it runs, and is healthy where it has a health check."""
        state = self.inspect()["State"]
        return bool(state["Running"]) and state.get("Health", {"Status": "healthy"})["Status"] == "healthy"

    def restart(self) -> float:
        """Restart with the stop timeout of the compose file and return the seconds until it passes its health check.

        The check is run every half a second until it passes: the engine would run it first after its interval of 5 s.
        """
        began = time.monotonic()
        configuration = self.inspect()["Config"]
        docker("restart", "--time", str(configuration.get("StopTimeout") or 10), self.id)
        kind, *words = configuration["Healthcheck"]["Test"]
        check = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        eventually(lambda: self.exec(*check).returncode == 0, 90.0, f"{self.name} is healthy again", 0.5)
        return time.monotonic() - began

    def log(self) -> str:
        """Its output so far, standard output and standard error."""
        done = subprocess.run(["docker", "logs", self.id], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "exec", self.id, *command], capture_output=True, text=True, timeout=60, check=False
        )


class ComposeProject:
    """The containers of one project name. `files` are its compose files, `port` is published on loopback.

    The fixture `images` must have built its images.
    """

    def __init__(self, name: str, files: list[str], port: int) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._options = ["--project-directory", ".", "-p", name, *(option for file in files for option in ("-f", file))]
        # RFC 2544: neither the engine nor anything else takes addresses from it.
        network = f"198.18.{os.getpid() % 256}"
        self._environment = {**os.environ, "PORT": str(port), "TAG": IMAGE_TAG, "DATA_NETWORK": network}
        self._scale: list[str] = []

    @property
    def urls(self) -> dict[str, str]:
        """URLs by name, as `Stack.urls`; from outside all of them are the gateway."""
        return dict.fromkeys(("gateway", "socket-1", "socket-2", "socket-3"), self.url)

    def run(self, *arguments: str, timeout: float = 120, check: bool = True, files: Sequence[str] = ()) -> str:
        """Run a compose command and return its output. With `check`, raises AssertionError where it fails.

        `files` are added to the compose files of the project.
        """
        more = [option for file in files for option in ("-f", file)]
        done = subprocess.run(
            [*compose(), *self._options, *more, *arguments],
            cwd=source_copy(),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, done.stdout
        return done.stdout

    def up(self, **scale: int) -> None:
        """Start the project, with numbers of replicas by service, and wait until the gateway is ready."""
        self._scale = [option for name, count in scale.items() for option in ("--scale", f"{name}={count}")]
        self.start()

    def start(self) -> None:
        self.run("up", "-d", *self._scale, timeout=600)
        eventually(self.is_ready, 60.0, "the gateway is ready")

    def scale(self, service: str, count: int) -> None:
        """Change the number of replicas of a running service."""
        self.run("up", "-d", "--no-deps", "--no-recreate", "--scale", f"{service}={count}", service, timeout=300)

    def set_variables(self, **variables: str) -> None:
        """Set variables for the commands from now on, as `.env` does."""
        self._environment |= variables

    def is_ready(self) -> bool:
        return httpx.get(f"{self.url}/readyz").status_code == 200

    def containers(self, *services: str) -> list[Container]:
        """The running containers, of these services or of all, sorted by name."""
        label = f"label=com.docker.compose.project={self.name}"
        listed = docker(
            "ps", "--filter", label, "--format", '{{.Names}} {{.ID}} {{.Label "com.docker.compose.service"}}'
        )
        rows = [line.split() for line in sorted(listed.splitlines())]
        return [Container(identifier) for _, identifier, service in rows if not services or service in services]
