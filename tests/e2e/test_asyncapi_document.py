"""The AsyncAPI document that the gateway serves: it is docs/asyncapi.yaml, and the events of uploads are as it says."""

import json
from typing import Any

import httpx
import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]  # ships no annotations
from websockets.sync.client import connect

from deploy.local.processes import PROJECT_ROOT
from tests.support.stack import Stack

PATH = PROJECT_ROOT / "docs" / "asyncapi.yaml"
DOCUMENT: dict[str, Any] = yaml.safe_load(PATH.read_text("utf-8"))


def test_gateway_serves_the_document(stack: Stack) -> None:
    for method in ("GET", "HEAD"):
        answer = httpx.request(method, f"{stack.url}/asyncapi.yaml")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/yaml")
        assert answer.content == (PATH.read_bytes() if method == "GET" else b"")
    assert httpx.post(f"{stack.url}/asyncapi.yaml").headers["allow"] == "GET, HEAD, OPTIONS"
    assert 'href="/asyncapi.yaml"' in httpx.get(f"{stack.url}/docs").text


def message_validator(name: str) -> Draft7Validator:
    return Draft7Validator(
        {**DOCUMENT["components"]["messages"][name]["payload"], "components": DOCUMENT["components"]}
    )


def check_event(event: dict[str, Any], message: str, schema: str) -> None:
    """The event is what the document says, and the document names every member of its data."""
    assert [fault.message for fault in message_validator(message).iter_errors(event)] == []
    of_some_types = {"file.moved": {"previous"}, "file.replaced": {"previous_owner"}}
    others = set().union(*of_some_types.values()) - of_some_types.get(event["type"], set())
    assert set(event["data"]) == set(DOCUMENT["components"]["schemas"][schema]["properties"]) - others


def test_events_of_uploads_are_as_documented(stack: Stack) -> None:
    address = f"{stack.url}/files/asyncapi/a.txt"
    with connect(stack.url.replace("http", "ws", 1) + "/ws") as connection:
        sid = json.loads(connection.recv(10))["sid"]
        assert httpx.put(address, params={"sid": sid}, content=b"one").status_code == 201
        assert httpx.put(address, content=b"two").status_code == 200
        assert httpx.delete(address).status_code == 204
        seen: list[dict[str, Any]] = []
        wanted = {"file.created", "file.replaced", "file.deleted", "file.progress"}
        while {event["type"] for event in seen} != wanted:
            event = json.loads(connection.recv(10))
            if event["type"] == "file.progress" or event["data"].get("folder") == "asyncapi":
                seen.append(event)
    for event in seen:
        message, schema = ("FileProgress", "Progress") if event["type"] == "file.progress" else ("FileChanged", "File")
        check_event(event, message, schema)
        other = "FileChanged" if message == "FileProgress" else "FileProgress"
        assert not message_validator(other).is_valid(event)
