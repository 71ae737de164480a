"""Endpoints as settings and the API describe them."""

import json
from typing import Any

import pytest

from services.common.webhooks.endpoints import MAX_ENDPOINTS, Endpoint, parse_endpoint, parse_endpoints
from services.common.webhooks.signing import make_secret

SECRET = make_secret()
VALID: dict[str, Any] = {"id": "orders", "url": "https://hooks.example/in?a=1", "secret": SECRET}


def no_file(path: str) -> str:
    raise ValueError(f"{path} cannot be read")


def test_a_full_description() -> None:
    second = make_secret()
    text = json.dumps(
        [
            {**VALID, "events": ["file.created", "x.*"], "folders": ["a"], "ordered": True, "secret": [SECRET, second]},
            {"id": "b", "url": "http://10.0.0.1:81/", "secret_file": "/run/secrets/b"},
        ]
    )
    first, other = parse_endpoints(text, {"/run/secrets/b": f"{second}\n"}.__getitem__)
    assert first == Endpoint(
        "orders", VALID["url"], (SECRET, second), ("file.created", "x.*"), ("a",), ordered=True, is_private_allowed=True
    )
    assert (other.secrets, other.events, other.ordered) == ((second,), ("*",), False)
    assert SECRET not in repr(first)


@pytest.mark.parametrize(
    ("event", "folder", "wanted"),
    [
        ("file.created", "a", True), ("file.created", "a/b", True), ("file.created", "ab", False), ("file.created", "", False),
        ("file.deleted", "a", False), ("x.y", "a", True), ("xy", "a", False),
    ],
)  # fmt: skip
def test_what_an_endpoint_wants(event: str, folder: str, wanted: bool) -> None:
    endpoint = Endpoint("e", "https://a.example/", (), ("file.created", "x.*"), ("a",))
    assert endpoint.wants(event, folder) is wanted


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": None}, "id"), ({"id": "a b"}, "id"), ({"id": "a" * 65}, "id"), ({"id": "a.b"}, "id"), ({"x": 1}, "no 'x'"),
        ({"url": 5}, "url"), ({"url": "ftp://a/"}, "url"), ({"url": "https://"}, "url"),
        ({"url": "https://u:p@a/"}, "user name"),
        ({"url": "https://a/#b"}, "fragment"), ({"url": "https://a:99999/"}, "url"), ({"url": "https://ä/"}, "url"),
        ({"url": "https://a/ b"}, "url"), ({"url": "https://a\\@b/"}, "backslash"),
        ({"url": "https://169.254.169.254/"}, "internet"),
        ({"url": "https://[::ffff:169.254.1.1]/"}, "internet"), ({"secret": "x"}, "whsec_"), ({"secret": []}, "secret"),
        ({"secret": [1]}, "secret"), ({"secret": None}, "secret"), ({"secret_file": "/f"}, "not both"),
        ({"secret": None, "secret_file": "/f"}, "cannot be read"), ({"events": "file.*"}, "events"),
        ({"events": []}, "events"),
        ({"events": ["FILE"]}, "events"), ({"events": ["*.file"]}, "events"), ({"folders": [1]}, "folders"),
        ({"ordered": 1}, "ordered"),
    ],
)  # fmt: skip
def test_faults_are_named_without_secrets(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        parse_endpoints(json.dumps([VALID | change]), no_file)
    assert str(caught.value).startswith("endpoint 1: ")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://a.example/", "https://127.0.0.1/", "https://[::1]/", "https://10.0.0.1/", "https://[fd00::1]/"]
)
def test_the_api_allows_no_private_address(url: str) -> None:
    assert parse_endpoint(VALID | {"url": url}, from_settings=True).url == url
    with pytest.raises(ValueError, match="url"):
        parse_endpoint(VALID | {"url": url}, from_settings=False)


@pytest.mark.parametrize(
    "text", ["", "{", "{}", "[1]", json.dumps([VALID, VALID]), json.dumps([VALID] * (MAX_ENDPOINTS + 1)), "[" * 9999]
)
def test_malformed_settings(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|same id|endpoint"):
        parse_endpoints(text, no_file)


def test_an_empty_list() -> None:
    assert parse_endpoints("[]", no_file) == ()
