"""Joining API documents."""

from typing import Any

from openapi_spec_validator import validate

from gateway import openapi_merge

OK = {"200": {"description": "ok"}}


def document(paths: dict[str, Any], schemas: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "x", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas or {}},
    }


def get(schema: str | None = None) -> dict[str, Any]:
    content = (
        {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}} if schema else {}
    )
    return {"responses": {"200": {"description": "ok", **content}}}


def test_paths_of_one_name_get_the_methods_of_both() -> None:
    joined = openapi_merge.merge_documents(
        document({"/": {"get": get()}}),
        {
            "upload": (document({"/file": {"put": get()}}), {("PUT", "/file")}),
            "stream": (document({"/file": {"get": get(), "put": get()}}), {("GET", "/file")}),
        },
    )
    assert {path: set(item) for path, item in joined["paths"].items()} == {"/": {"get"}, "/file": {"put", "get"}}
    validate(joined)


def test_parameters_may_be_named_otherwise() -> None:
    service = document({"/tus/{upload}": {"patch": get()}, "/tus/{upload}/x": {"get": get()}})
    joined = openapi_merge.merge_documents(document({}), {"upload": (service, {("PATCH", "/tus/{id}")})})
    assert list(joined["paths"]) == ["/tus/{upload}"]


def test_what_is_not_routed_is_not_shown() -> None:
    joined = openapi_merge.merge_documents(document({}), {"stream": (document({"/metrics": {"get": get()}}), set())})
    assert joined["paths"] == {}


def test_equal_schemas_are_shared_and_others_renamed() -> None:
    same, one, two = (
        {"type": "string"},
        {"type": "integer"},
        {"type": "array", "items": {"$ref": "#/components/schemas/Same"}},
    )
    joined = openapi_merge.merge_documents(
        document({}),
        {
            "upload": (document({"/a": {"get": get("Thing")}}, {"Same": same, "Thing": one}), {("GET", "/a")}),
            "stream": (document({"/b": {"get": get("Thing")}}, {"Same": same, "Thing": two}), {("GET", "/b")}),
        },
    )
    assert joined["components"]["schemas"] == {"Same": same, "Thing": one, "StreamThing": two}
    assert joined["paths"]["/a"]["get"] == get("Thing")
    assert joined["paths"]["/b"]["get"] == get("StreamThing")
    validate(joined)


def test_what_the_gateway_answers_itself_stands_beside_what_the_service_does() -> None:
    service = document({"/a": {"get": get()}})
    answers = {200: {"description": "not this one"}, 502: {"description": "no replica"}}
    joined = openapi_merge.merge_documents(document({"/": {"get": get()}}), {"x": (service, {("GET", "/a")})}, answers)
    assert joined["paths"]["/a"]["get"]["responses"] == {**OK, "502": {"description": "no replica"}}
    assert joined["paths"]["/"]["get"]["responses"] == OK
    validate(joined)


def test_the_documents_are_left_as_they_were() -> None:
    own = document({"/": {"get": get()}})
    openapi_merge.merge_documents(own, {"upload": (document({"/": {"put": get()}}, {"A": {}}), {("PUT", "/")})})
    assert own == document({"/": {"get": get()}})
