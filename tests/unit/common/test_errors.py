"""services.common.errors: every error has a status of its own, a title."""

import pytest

from services.common.errors import GridcastError


def error_classes(kind: type[GridcastError]) -> list[type[GridcastError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in error_classes(sub))]


@pytest.mark.parametrize("kind", error_classes(GridcastError), ids=lambda kind: kind.__name__)
def test_statuses_are_http(kind: type[GridcastError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.title
