"""The end-to-end tests of the local stack, once more against containers and through the published port alone."""

import pytest

from tests.e2e.test_user_journey import (  # noqa: F401  # collected here, against the other stack
    folder,
    listeners,
    test_ffprobe_reads_over_http,
    test_invalid_input_is_explained_through_the_gateway,
    test_push_by_http_reaches_every_replica,
    test_upload_play_and_push,
)
from tests.support.compose_project import ComposeProject

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def stack(compose_project: ComposeProject) -> ComposeProject:
    """Replaces the local stack."""
    return compose_project
