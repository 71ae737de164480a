"""The end-to-end tests of the local stack, once more against containers and through the published port alone."""

import pytest

from tests.containers.project import Project
from tests.e2e.test_quick_start import (  # noqa: F401  # collected here, against the other stack
    folder,
    listeners,
    test_bad_input_is_named_through_the_gateway,
    test_ffprobe_reads_over_http,
    test_push_by_http_reaches_every_replica,
    test_upload_play_and_push,
)

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def stack(project: Project) -> Project:
    """Takes the place of the local stack."""
    return project
