"""services.common.errors: every error has a status of its own, a safe body, and headers that fit into a response."""

import json

import pytest

from services.common import errors
from services.common.errors import GridcastError


def error_classes(kind: type[GridcastError]) -> list[type[GridcastError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in error_classes(sub))]


@pytest.mark.parametrize("kind", error_classes(GridcastError), ids=lambda kind: kind.__name__)
def test_statuses_are_http(kind: type[GridcastError]) -> None:
    assert 400 <= kind.status <= 599
    assert kind.title


def test_body_is_a_problem_document() -> None:
    error = errors.AlreadyExists("a", 'b"c')
    assert json.loads(errors.encode_problem(error)) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "Not Unique: 'b\"c' already exists in folder 'a'",
    }


def test_lone_surrogate_does_not_break_the_problem_body() -> None:
    assert b"udcff" in errors.encode_problem(errors.BadRequest("bad \udcff"))


def test_headers_carry_the_data_of_the_error() -> None:
    error = errors.RangeNotSatisfiable(7)
    headers = dict(errors.problem_headers(error, b"12345"))
    assert headers[b"content-range"] == b"bytes */7"
    assert headers[b"content-length"] == b"5"
    assert dict(errors.problem_headers(errors.ServiceUnavailable("x"), b""))[b"retry-after"] == b"2"
