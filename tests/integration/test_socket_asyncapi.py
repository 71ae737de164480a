"""docs/asyncapi.yaml: well formed, and in agreement with what a running service sends and accepts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no annotations
import pytest
import yaml
from jsonschema import Draft7Validator

from gridcast._bus import events
from services.socket import commands
from tests.support.websocket_client import SocketReplicas, WebSocketClient, push_message

pytestmark = pytest.mark.anyio
DOCUMENT: dict[str, Any] = yaml.load(
    (Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text("utf-8"), yaml.CSafeLoader
)


def iter_references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for inner in part.values():
            yield from iter_references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from iter_references(inner)


def resolve_reference(reference: str) -> Any:
    found: Any = DOCUMENT
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return resolve_reference(found["$ref"]) if isinstance(found, dict) and set(found) == {"$ref"} else found


def message_validator(name: str) -> Draft7Validator:
    """A validator for the payload of one message, with the document's schemas for references. AsyncAPI 3: JSON Schema, draft 7."""
    schema = {**DOCUMENT["components"]["messages"][name]["payload"], "components": DOCUMENT["components"]}
    return Draft7Validator(schema)


def matching_messages(message: Any) -> set[str]:
    """The messages whose schema the frame is valid against."""
    return {name for name in DOCUMENT["components"]["messages"] if message_validator(name).is_valid(message)}


def test_document_is_asyncapi_3() -> None:
    assert DOCUMENT["asyncapi"].startswith("3.0.")
    assert set(DOCUMENT) <= {
        "asyncapi",
        "id",
        "info",
        "servers",
        "defaultContentType",
        "channels",
        "operations",
        "components",
    }
    assert {"title", "version"} <= set(DOCUMENT["info"])
    for server in DOCUMENT["servers"].values():
        assert {"host", "protocol"} <= set(server)
    for reference in iter_references(DOCUMENT):
        assert resolve_reference(reference) is not None
    for operation in DOCUMENT["operations"].values():
        assert operation["action"] in {"send", "receive"}
        channel = resolve_reference(operation["channel"]["$ref"])
        for message in operation["messages"]:
            assert message["$ref"].startswith(operation["channel"]["$ref"] + "/messages/"), (
                "AsyncAPI 3: of that channel"
            )
        assert channel["address"] == "/ws"
    used = {message["$ref"].rpartition("/")[2] for op in DOCUMENT["operations"].values() for message in op["messages"]}
    assert used == set(DOCUMENT["channels"]["socket"]["messages"])
    for message in DOCUMENT["components"]["messages"].values():
        Draft7Validator.check_schema(message["payload"])
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft7Validator.check_schema(schema)


async def test_every_server_frame_is_in_the_document(single_replica: SocketReplicas) -> None:
    client = await WebSocketClient.connect(single_replica[0])
    assert matching_messages(client.first_frame) == {"First"}
    assert matching_messages(await client.send_command("ping")) == {"Pong"}
    assert matching_messages(await client.subscribe("a")) == {"Subscribed"}
    assert matching_messages(await client.send_command({"type": "unsubscribe", "topic": "a"})) >= {"Unsubscribed"}
    assert matching_messages(await client.send_command({"type": "nonsense"})) == {"Error"}
    await push_message(single_replica[0], client.sid, {"type": "t", "data": None})
    assert matching_messages(await client.receive_event()) == {"Event"}
    single_replica.redis.kill()
    single_replica.redis.start()
    assert matching_messages(await client.receive_event("socket.resync")) == {"Event", "Resync"}
    await client.close()


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ({"type": "ping"}, "Ping"),
        ({"type": "subscribe", "topic": "a/b:c"}, "Subscribe"),
        ({"type": "unsubscribe", "topic": "a"}, "Unsubscribe"),
        ({"type": "ack", "id": "1"}, "Ack"),
        ({"type": "token", "token": "a.b.c"}, "Token"),
        ({"type": "token"}, None),
        ({"type": "subscribe", "topic": "a b"}, None),
        ({"type": "subscribe", "topic": "x" * 201}, None),
        ({"type": "subscribe"}, None),
        ({"type": "ack", "id": "a b"}, None),
        ({"type": "publish"}, None),
    ],
)
def test_documented_commands_match_the_parser(said: dict[str, Any], name: str | None) -> None:
    understood = not isinstance(commands.parse_command(json.dumps(said)), commands.InvalidCommand)
    receive = {message["$ref"].rpartition("/")[2] for message in DOCUMENT["operations"]["clientCommands"]["messages"]}
    fits = {one for one in matching_messages(said) if one.lower() in receive}
    assert fits == ({name} if name else set())
    assert understood == (name is not None)


@pytest.mark.parametrize(
    ("name", "rule"),
    [("Sid", events._SID_PATTERN), ("Topic", events._TOPIC_PATTERN), ("Sequence", events._POSITION_PATTERN)],
)
def test_documented_patterns_match_the_code(name: str, rule: Any) -> None:
    pattern = DOCUMENT["components"]["schemas"][name]["pattern"]
    assert pattern.strip("^$").replace("(", "").replace(")", "") == rule.pattern.replace("(", "").replace(")", "")


def test_invalid_frame_fails_the_schema() -> None:
    with pytest.raises(jsonschema.ValidationError):
        message_validator("First").validate({"sid": "x", "resume": "y", "sequence": "z", "recovered": False})
