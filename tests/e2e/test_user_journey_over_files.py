"""The end-to-end tests of the local stack, once more over the files store, so that each `make test` runs them over two stores."""

from collections.abc import Iterator

import pytest

from tests.e2e.test_user_journey import (  # noqa: F401  # collected here, against the other stack
    folder,
    listeners,
    test_ffprobe_reads_over_http,
    test_invalid_input_is_explained_through_the_gateway,
    test_push_by_http_reaches_every_replica,
    test_upload_play_and_push,
)
from tests.support.stack import Stack, run_shared_stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Replaces the stack of the session."""
    with run_shared_stack(tmp_path_factory.mktemp("files") / "data", "files") as stack:
        assert "mongod" not in stack.pids
        yield stack
