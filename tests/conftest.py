"""The fixtures that every test may ask for; each comes from the room that is named after it.

servers    mongod, redis_server, own_mongod, own_redis, database, redis_url
launch     start_service
stack      stack
uploads    upload, upload_settings, env, store
videos     video, ffmpeg
upstreams  service, gateway, hasty
"""

import pytest

pytest_plugins = [
    "tests.servers",
    "tests.launch",
    "tests.stack",
    "tests.uploads",
    "tests.videos",
    "tests.upstreams",
]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop that services run on."""
    return "asyncio"
