"""services.common.http.problem: a safe body, and headers that fit into a response."""

import json

from services.common import errors
from services.common.http.problem import encode_problem, problem_headers


def test_body_is_a_problem_document() -> None:
    error = errors.AlreadyExists("a", 'b"c')
    assert json.loads(encode_problem(error)) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "detail": "Not Unique: 'b\"c' already exists in folder 'a'",
    }


def test_lone_surrogate_does_not_break_the_problem_body() -> None:
    assert b"udcff" in encode_problem(errors.BadRequest("bad \udcff"))


def test_headers_carry_the_data_of_the_error() -> None:
    error = errors.RangeNotSatisfiable(7)
    headers = dict(problem_headers(error, b"12345"))
    assert headers[b"content-range"] == b"bytes */7"
    assert headers[b"content-length"] == b"5"
    assert dict(problem_headers(errors.ServiceUnavailable("x"), b""))[b"retry-after"] == b"2"
