"""The id of the request that a task works on. All log lines about a request and its response have it."""

import random
from contextvars import ContextVar

request_id_var: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that the running task handles; empty outside of a request."""

_random = random.Random()  # noqa: S311  # an id is no secret; asking the system for it is a call for each request


def new_request_id() -> str:
    """Return a new id: 16 hexadecimal digits."""
    return f"{_random.getrandbits(64):016x}"
