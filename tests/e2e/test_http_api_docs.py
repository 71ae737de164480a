"""docs/http-api.md names what the gateway's joined OpenAPI document names, and nothing else."""

import re
from pathlib import Path

import httpx

from tests.support.stack import Stack

DOCUMENT = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text("utf-8")
GATEWAY_ENDPOINTS = {("get", "/livez"), ("get", "/readyz"), ("get", "/version")}


def documented_endpoints() -> set[tuple[str, str]]:
    """Every method and path in the first column of a table."""
    found = set()
    for cell in re.findall(r"^\| (`[A-Z][^|]*) \|", DOCUMENT, re.MULTILINE):
        methods: list[str] = []
        for code in re.findall(r"`([^`]+)`", cell):
            words = code.split()
            methods.append(words[0].lower())
            if len(words) > 1:
                path = re.split(r"[\[?]", words[1])[0]
                found |= {(method, path) for method in methods}
                methods = []
    return found


def test_http_api_docs_match_the_openapi_document(stack: Stack) -> None:
    paths = httpx.get(f"{stack.url}/openapi.json").json()["paths"]
    documented = {(method, path) for path, item in paths.items() for method in item} - GATEWAY_ENDPOINTS
    assert documented_endpoints() == documented
