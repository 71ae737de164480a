"""gateway.openapi_merge: merging the documents of the services."""

from typing import Any

from openapi_spec_validator import validate

from gateway import openapi_merge

OK_RESPONSES = {"200": {"description": "ok"}}


def make_document(paths: dict[str, Any], schemas: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": "x", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas or {}},
    }


def get_operation(schema: str | None = None) -> dict[str, Any]:
    content = (
        {"content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}} if schema else {}
    )
    return {"responses": {"200": {"description": "ok", **content}}}


def test_equal_paths_get_the_methods_of_both_services() -> None:
    merged = openapi_merge.merge_documents(
        make_document({"/": {"get": get_operation()}}),
        {
            "upload": (make_document({"/file": {"put": get_operation()}}), {("PUT", "/file")}),
            "stream": (make_document({"/file": {"get": get_operation(), "put": get_operation()}}), {("GET", "/file")}),
        },
    )
    assert {path: set(item) for path, item in merged["paths"].items()} == {"/": {"get"}, "/file": {"put", "get"}}
    validate(merged)


def test_path_parameters_may_have_other_names() -> None:
    service = make_document({"/tus/{upload}": {"patch": get_operation()}, "/tus/{upload}/x": {"get": get_operation()}})
    merged = openapi_merge.merge_documents(make_document({}), {"upload": (service, {("PATCH", "/tus/{id}")})})
    assert list(merged["paths"]) == ["/tus/{upload}"]


def test_unrouted_operations_are_left_out() -> None:
    merged = openapi_merge.merge_documents(
        make_document({}), {"stream": (make_document({"/metrics": {"get": get_operation()}}), set())}
    )
    assert merged["paths"] == {}


def test_equal_schemas_are_shared_and_others_renamed() -> None:
    same, one, two = (
        {"type": "string"},
        {"type": "integer"},
        {"type": "array", "items": {"$ref": "#/components/schemas/Same"}},
    )
    merged = openapi_merge.merge_documents(
        make_document({}),
        {
            "upload": (
                make_document({"/a": {"get": get_operation("Thing")}}, {"Same": same, "Thing": one}),
                {("GET", "/a")},
            ),
            "stream": (
                make_document({"/b": {"get": get_operation("Thing")}}, {"Same": same, "Thing": two}),
                {("GET", "/b")},
            ),
        },
    )
    assert merged["components"]["schemas"] == {"Same": same, "Thing": one, "StreamThing": two}
    assert merged["paths"]["/a"]["get"] == get_operation("Thing")
    assert merged["paths"]["/b"]["get"] == get_operation("StreamThing")
    validate(merged)


def test_gateway_responses_are_added_to_the_responses_of_the_service() -> None:
    service = make_document({"/a": {"get": get_operation()}})
    error_responses: dict[int | str, dict[str, str]] = {
        200: {"description": "not this one"},
        502: {"description": "no upstream"},
    }
    merged = openapi_merge.merge_documents(
        make_document({"/": {"get": get_operation()}}), {"x": (service, {("GET", "/a")})}, error_responses
    )
    assert merged["paths"]["/a"]["get"]["responses"] == {**OK_RESPONSES, "502": {"description": "no upstream"}}
    assert merged["paths"]["/"]["get"]["responses"] == OK_RESPONSES
    validate(merged)


def test_source_documents_are_not_modified() -> None:
    gateway_document = make_document({"/": {"get": get_operation()}})
    openapi_merge.merge_documents(
        gateway_document, {"upload": (make_document({"/": {"put": get_operation()}}, {"A": {}}), {("PUT", "/")})}
    )
    assert gateway_document == make_document({"/": {"get": get_operation()}})
