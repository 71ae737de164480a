"""The images hold nothing that a service does not need."""

import json
import subprocess

import pytest

from tests.support.compose_project import docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

SERVICES = ("upload", "stream", "socket", "live", "gateway")
WITH_STORES = ("upload", "stream", "live", "setup")
MODULES = {name: "gateway" if name == "gateway" else f"services.{name}" for name in SERVICES}
INSPECT_SCRIPT = """
import importlib.util, json, os, shutil
DRIVERS = ("motor", "pymongo", "sqlalchemy", "redis", "httpx", "aiohttp", "python_multipart")
print(json.dumps({
    "uid": os.getuid(),
    "programs": [p for p in ("pip", "pip3", "easy_install", "gcc", "cc", "g++", "clang", "ld", "make") if shutil.which(p)],
    "modules": [m for m in ("pip", "setuptools", "ensurepip") if importlib.util.find_spec(m)],
    "drivers": [m for m in DRIVERS if importlib.util.find_spec(m)],
    "wheels": [f for d, _, fs in os.walk("/") if not d.startswith(("/proc", "/sys")) for f in fs if f.endswith(".whl")],
    "writable": [d for d, _, fs in os.walk("/app") if os.access(d, os.W_OK)],
}))
"""


def run_image(image: str, *command: str) -> subprocess.CompletedProcess[str]:
    locked = ["--read-only", "--cap-drop", "ALL", "--network", "none"]
    return subprocess.run(
        ["docker", "run", "--rm", *locked, image, *command], capture_output=True, text=True, timeout=60, check=False
    )


def test_sizes(images: dict[str, str]) -> None:
    """Printed; an image adds at most 70 MB to its base, those with the drivers of both stores 125 MB."""
    base = max(int(docker("image", "inspect", "--format", "{{.Size}}", "python:3.13-slim")), 1)
    for target, image in images.items():
        size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
        print(
            f"\n{target}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB of them on top of python:3.13-slim", end=""
        )
        assert size - base < (125e6 if target in WITH_STORES else 70e6)


@pytest.mark.parametrize("service", SERVICES)
def test_image_has_no_pip_no_compiler_and_no_foreign_drivers(images: dict[str, str], service: str) -> None:
    done = run_image(images[service], "python", "-c", INSPECT_SCRIPT)
    assert done.returncode == 0, done.stderr
    drivers = {
        "upload": ["motor", "pymongo", "sqlalchemy", "redis", "httpx"],
        "stream": ["motor", "pymongo", "sqlalchemy", "redis", "httpx"],
        "socket": ["redis", "httpx"],
        "live": ["motor", "pymongo", "sqlalchemy", "redis", "httpx"],
        "gateway": [],
    }
    assert json.loads(done.stdout) == {
        "uid": 10001,
        "programs": [],
        "modules": [],
        "drivers": drivers[service],
        "wheels": [],
        "writable": [],
    }


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_does_not_start_in_the_image_of_another(images: dict[str, str], service: str) -> None:
    for other in set(SERVICES) - {service}:
        done = run_image(images[other], "python", "-m", MODULES[service])
        assert done.returncode == 1
        assert "No module named" in done.stderr, done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_labels_and_configuration(images: dict[str, str], service: str) -> None:
    config = json.loads(docker("image", "inspect", images[service]))[0]["Config"]
    assert config["User"] == "10001:10001"
    assert config["Cmd"] == ["python", "-m", MODULES[service]]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"] == f"gridcast-{service}"
    assert not any("PASSWORD" in entry for entry in config["Env"])
