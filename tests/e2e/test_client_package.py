"""The wheel of clients/python in an empty environment: what it contains, and what can be imported from it."""

import json
import zipfile
from pathlib import Path

from tests.support.client_package import ClientEnvironment

ROOT = Path(__file__).parents[2]
INSPECT_SCRIPT = """
import importlib.metadata, importlib.util, json, pkgutil
import gridcast, gridcast.publish
print(json.dumps({
    "distributions": sorted({found.name for found in importlib.metadata.distributions()} - {"async-timeout"}),
    "modules": ["gridcast", *(found.name for found in pkgutil.walk_packages(gridcast.__path__, "gridcast."))],
    "names": sorted(set(gridcast.publish.__all__)),
    "top": sorted(name for name in vars(gridcast) if not name.startswith("_")),
    "foreign": [name for name in ("services", "gateway", "deploy", "tests") if importlib.util.find_spec(name)],
}))
"""
WITHOUT_REDIS_SCRIPT = """
import sys
sys.modules["redis"] = None
import gridcast.errors
import gridcast.publish
"""


def test_the_wheel_contains_the_package_alone(client_environment: ClientEnvironment) -> None:
    with zipfile.ZipFile(client_environment.wheel) as wheel:
        names = wheel.namelist()
        (license_name,) = (name for name in names if name.endswith("/licenses/LICENSE"))
        assert wheel.read(license_name) == (ROOT / "LICENSE").read_bytes()
        (metadata_name,) = (name for name in names if name.endswith("/METADATA"))
        head = wheel.read(metadata_name).decode().partition("\n\n")[0].splitlines()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"gridcast"}
    assert {"gridcast/py.typed", "gridcast/_bus/lua/publish_event.lua"} <= set(names)
    assert [line for line in head if line.startswith(("Requires-Dist", "Provides-Extra"))] == [
        "Provides-Extra: redis",
        "Requires-Dist: redis<9,>=8.1; extra == 'redis'",
    ]


def test_only_public_names_can_be_imported(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    done = client_environment.run("-c", INSPECT_SCRIPT, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["distributions"] == ["gridcast", "redis"]
    assert found["foreign"] == []
    public = {name for name in found["modules"] if "._" not in name}
    assert public == {"gridcast", "gridcast.errors", "gridcast.publish"}
    assert found["top"] == ["errors", "publish"]
    assert found["names"] == [
        "EventTooLarge",
        "InvalidEvent",
        "PublishError",
        "PublishResult",
        "PublishStatus",
        "Publisher",
        "RedisRefusesWrites",
        "RedisUnavailable",
        "SessionsNotReady",
    ]


def test_without_the_extra_the_error_names_it(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    done = client_environment.run("-c", WITHOUT_REDIS_SCRIPT, folder=tmp_path)
    assert done.returncode == 1
    assert 'ModuleNotFoundError: redis-py is not installed: pip install "gridcast[redis]"' in done.stderr
