"""services.common.bus.errors: each error of the client becomes the services' error with its status."""

import pytest

from gridcast import errors as client_errors
from services.common.bus.errors import translated_bus_errors
from services.common.errors import BadRequest, ContentTooLarge, GridcastError, ServiceUnavailable


@pytest.mark.parametrize(
    ("raised", "expected", "detail"),
    [
        (client_errors.InvalidEvent("no"), BadRequest, "Validation Error: no"),
        (client_errors.EventTooLarge("no"), ContentTooLarge, "no"),
        (client_errors.RedisUnavailable("no"), ServiceUnavailable, "no"),
        (client_errors.SessionsNotReady("no"), ServiceUnavailable, "no"),
    ],
)
def test_status_and_text(raised: Exception, expected: type[GridcastError], detail: str) -> None:
    with pytest.raises(expected) as caught, translated_bus_errors():
        raise raised
    assert type(caught.value) is expected
    assert caught.value.detail == detail
    assert ("retry-after" in caught.value.headers) == (expected is ServiceUnavailable)


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), translated_bus_errors():
        raise KeyError
