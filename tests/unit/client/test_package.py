"""What the two projects of this repository declare: names, and the version of redis-py that both use."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


def read_project(path: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / path).read_text("utf-8"))


def test_the_services_are_no_package_and_the_client_has_the_name() -> None:
    services = read_project("pyproject.toml")
    assert services["project"]["name"] == "gridcast-services"
    assert services["tool"]["uv"]["package"] is False
    assert "build-system" not in services
    assert read_project("clients/python/pyproject.toml")["project"]["name"] == "gridcast"


def test_images_that_install_the_client_lock_what_it_needs() -> None:
    """The client is installed without its dependencies, so an image's own requirements name them."""
    needed = read_project("clients/python/pyproject.toml")["project"]["optional-dependencies"]["redis"]
    extras = read_project("pyproject.toml")["project"]["optional-dependencies"]
    for service in ("upload", "stream", "socket"):
        assert set(needed) <= set(extras[service])


def test_what_services_import_of_the_client_needs_no_http_library() -> None:
    """Httpx and websockets are requirements of the client that images do not install."""
    script = "import sys\nfor name in ('httpx', 'websockets', 'click', 'rich'): sys.modules[name] = None\nimport gridcast.publish"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "clients/python/src")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=30)


def test_the_build_tool_is_locked() -> None:
    (tool,) = read_project("clients/python/pyproject.toml")["build-system"]["requires"]
    assert read_project("pyproject.toml")["dependency-groups"]["build"] == [tool]
    for lock in ("build", "local", "dev"):
        assert "\nhatchling==" in "\n" + (ROOT / f"requirements/{lock}.txt").read_text("utf-8"), lock
