"""A live stream by ffmpeg against containers, through the published port alone; no container logs a publish token."""

import httpx
import pytest

from tests.e2e.test_live_journey import (  # noqa: F401  # collected here, against the other stack
    test_a_stream_is_watched_while_it_is_sent_and_is_a_file_afterwards,
)
from tests.support.compose_project import ComposeProject

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def stack(compose_project: ComposeProject) -> ComposeProject:
    """Replaces the local stack."""
    return compose_project


def test_no_container_logs_a_token_of_a_path(compose_project: ComposeProject) -> None:
    made = httpx.post(f"{compose_project.url}/live", json={"filename": "secret path.mp4"}).raise_for_status().json()
    token = made["publish_token"]
    refused = httpx.put(f"{compose_project.url}/live/{made['id']}/key/{token}/media", content=b"no media")
    assert refused.status_code in {400, 415}
    lines = compose_project.run("logs", "--no-color")
    assert f"/live/{made['id']}/key/-/media" in lines
    assert token not in lines
    httpx.delete(f"{compose_project.url}/live/{made['id']}").raise_for_status()
