"""The fixtures that every test may ask for; each comes from the room that is named after it.

servers    mongod, redis_server, own_mongod, own_redis, database, redis_url
launch     start_service
stack      stack
uploads    upload, upload_settings, env, store
videos     video, ffmpeg
upstreams  service, gateway, hasty
"""

import os
from pathlib import Path

import pytest

# Processes that tests start import the client of this tree, as pytest does by `pythonpath`.
CLIENT_SOURCE = str(Path(__file__).parents[1] / "clients/python/src")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [CLIENT_SOURCE, os.environ.get("PYTHONPATH")]))

pytest_plugins = [
    "tests.support.client_package",
    "tests.support.databases",
    "tests.support.processes",
    "tests.support.stack",
    "tests.support.upload_client",
    "tests.support.videos",
    "tests.support.scripted_upstream",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that services run on."""
    return "asyncio"
