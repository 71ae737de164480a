"""Joins the services' OpenAPI documents into one that shows what the gateway lets through.

Pure: documents in, document out. A path that two services share (/file/stream) gets the methods of both. Schemas of one name but
different content are renamed after their service.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

OpenAPIDocument = dict[str, Any]

_PARAMETER = re.compile(r"\{[^}]*\}")
_SCHEMA_REF = "#/components/schemas/"


def merge_documents(
    gateway_document: OpenAPIDocument,
    documents: Mapping[str, tuple[OpenAPIDocument, Collection[tuple[str, str]]]],
    error_responses: Mapping[int | str, Mapping[str, Any]] | None = None,
) -> OpenAPIDocument:
    """`own` with each service's paths, as far as its (method, template) pairs are routed.

    `answers` by status are what the gateway itself may say in a service's place; what the service documents stays.
    """
    ours = {str(status): answer for status, answer in (error_responses or {}).items()}
    paths: dict[str, Any] = {path: dict(item) for path, item in gateway_document.get("paths", {}).items()}
    components: dict[str, dict[str, Any]] = {
        kind: dict(of) for kind, of in gateway_document.get("components", {}).items()
    }
    for service, (document, routed) in documents.items():
        schemas = components.setdefault("schemas", {})
        theirs = document.get("components", {}).get("schemas", {})
        names = {
            name: f"{service.capitalize()}{name}"
            for name, schema in theirs.items()
            if name in schemas and schemas[name] != schema
        }
        joined = _rename_schema_refs(document, names)
        for kind, of in joined.get("components", {}).items():
            known = components.setdefault(kind, {})
            for name, component in of.items():
                known.setdefault(names.get(name, name) if kind == "schemas" else name, component)
        shapes = {(method, _path_shape(template)) for method, template in routed}
        for path, item in joined.get("paths", {}).items():
            for method, operation in item.items():
                if (method.upper(), _path_shape(path)) in shapes:
                    responses = dict(sorted({**ours, **operation["responses"]}.items()))
                    paths.setdefault(path, {})[method] = {**operation, "responses": responses}
    return {**gateway_document, "paths": dict(sorted(paths.items())), "components": components}


def _path_shape(template: str) -> str:
    """A path without the names of its parameters: those are the service's own affair."""
    return _PARAMETER.sub("{}", template)


def _rename_schema_refs(value: Any, new_names: Mapping[str, str]) -> Any:
    """`value` with every reference to a renamed schema changed."""
    if not new_names:
        return value
    if isinstance(value, dict):
        return {
            key: _SCHEMA_REF + new_names[part.removeprefix(_SCHEMA_REF)]
            if key == "$ref" and isinstance(part, str) and part.removeprefix(_SCHEMA_REF) in new_names
            else _rename_schema_refs(part, new_names)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_rename_schema_refs(part, new_names) for part in value]
    return value
