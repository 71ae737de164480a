"""docs/asyncapi.yaml against the schema that the AsyncAPI project publishes for 3.0.0.

The schema comes from npm; where it is not available, these tests are skipped and say so. test_socket_asyncapi.py compares the
document with a running service.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]  # ships no annotations

from tests.support.npm import NpmPackages

SCHEMA = "node_modules/@asyncapi/specs/schemas/3.0.0.json"
DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text("utf-8"))


@pytest.fixture(scope="module")
def asyncapi_validator(npm: NpmPackages, tmp_path_factory: pytest.TempPathFactory) -> Draft7Validator:
    folder = npm.require(tmp_path_factory.mktemp("specs"), ["@asyncapi/specs"])
    return Draft7Validator(json.loads((folder / SCHEMA).read_text("utf-8")))


def test_document_is_valid_against_the_published_schema(asyncapi_validator: Draft7Validator) -> None:
    assert [f"{fault.json_path}: {fault.message}" for fault in asyncapi_validator.iter_errors(DOCUMENT)] == []


Mutation = Callable[[dict[str, Any]], object]
MUTATIONS: dict[str, Mutation] = {
    "another version": lambda document: document.update(asyncapi="2.6.0"),
    "a member that nobody knows": lambda document: document.update(paths={}),
    "a server without a host": lambda document: document["servers"]["local"].pop("host"),
    "an action of version 2": lambda document: document["operations"]["serverMessages"].update(action="publish"),
    "an operation without a channel": lambda document: document["operations"]["clientCommands"].pop("channel"),
    "a message that is a text": lambda document: document["channels"]["socket"]["messages"].update(first="First"),
    "a binding with a wrong method": lambda document: document["channels"]["socket"]["bindings"]["ws"].update(
        method="PUT"
    ),
    "a payload of no type": lambda document: document["components"]["schemas"]["Sid"].update(type="sid"),
}


@pytest.mark.parametrize("spoil", MUTATIONS.values(), ids=MUTATIONS.keys())
def test_invalid_documents_are_rejected_by_the_schema(asyncapi_validator: Draft7Validator, spoil: Mutation) -> None:
    """A control: the schema must reject an invalid document."""
    spoilt = copy.deepcopy(DOCUMENT)
    spoil(spoilt)
    assert not asyncapi_validator.is_valid(spoilt)
