"""Example values of the OpenAPI documents. The services share them, so that what one operation stores the others find.

A form that fills in examples by itself, as /docs does, takes those of parameters. What a client need not send has its examples in
the schema instead.
"""

from typing import Any, Final

from fastapi.openapi.models import Example

EXAMPLE_FOLDER: Final = "demo"
EXAMPLE_FILENAME: Final = "hello.txt"
EXAMPLE_PATH: Final = "demo/by-path.txt"
"""Another file than the one above: deleting one leaves the other."""


def parameter_examples(value: Any) -> dict[str, Example]:
    """Return the `openapi_examples` of a FastAPI parameter: one example."""
    return {"example": Example(value=value)}
