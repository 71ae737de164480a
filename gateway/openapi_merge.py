"""Merges the services' OpenAPI documents into one that describes the operations that the gateway routes.

A path that two services share (/file/stream) gets the methods of both. Schemas of the same name and different content are prefixed
with the name of their service.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

OpenAPIDocument = dict[str, Any]

_PATH_PARAMETER = re.compile(r"\{[^}]*\}")
_SCHEMA_REF = "#/components/schemas/"


def merge_documents(
    gateway_document: OpenAPIDocument,
    documents: Mapping[str, tuple[OpenAPIDocument, Collection[tuple[str, str]]]],
    error_responses: Mapping[int | str, Mapping[str, Any]] | None = None,
) -> OpenAPIDocument:
    """Return the merged document.

    Arguments:
        gateway_document: the document of the gateway's own routes.
        documents: by service, its document and the (method, template) pairs that are routed; other operations are left out.
        error_responses: by status, responses that the gateway itself may send on a service's route. Those that the service
            documents take precedence.
    """
    gateway_responses = {str(status): response for status, response in (error_responses or {}).items()}
    paths: dict[str, Any] = {path: dict(item) for path, item in gateway_document.get("paths", {}).items()}
    components: dict[str, dict[str, Any]] = {
        kind: dict(named) for kind, named in gateway_document.get("components", {}).items()
    }
    for service, (document, routed) in documents.items():
        schemas = components.setdefault("schemas", {})
        service_schemas = document.get("components", {}).get("schemas", {})
        new_names = {
            name: f"{service.capitalize()}{name}"
            for name, schema in service_schemas.items()
            if name in schemas and schemas[name] != schema
        }
        renamed = _rename_schema_refs(document, new_names)
        for kind, named in renamed.get("components", {}).items():
            merged = components.setdefault(kind, {})
            for name, component in named.items():
                merged.setdefault(new_names.get(name, name) if kind == "schemas" else name, component)
        shapes = {(method, _path_shape(template)) for method, template in routed}
        for path, item in renamed.get("paths", {}).items():
            for method, operation in item.items():
                if (method.upper(), _path_shape(path)) in shapes:
                    responses = dict(sorted({**gateway_responses, **operation["responses"]}.items()))
                    paths.setdefault(path, {})[method] = {**operation, "responses": responses}
    return {**gateway_document, "paths": dict(sorted(paths.items())), "components": components}


def _path_shape(template: str) -> str:
    """Return a path without the names of its parameters, which may differ between the route table and the service."""
    return _PATH_PARAMETER.sub("{}", template)


def _rename_schema_refs(value: Any, new_names: Mapping[str, str]) -> Any:
    """Return `value` with each reference to a renamed schema changed."""
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
