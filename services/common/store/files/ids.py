"""Ids in the layout of a MongoDB ObjectId, so that files keep their ids when they are copied between stores.

24 hexadecimal digits: 4 bytes of seconds since 1970, 5 random bytes of the process, 3 bytes of a counter.
"""

import itertools
import os
import re
import secrets
import time

_ID_FORM = re.compile(r"[0-9a-f]{24}")
_counter = itertools.count(secrets.randbelow(1 << 24))
_process_random = secrets.token_bytes(5)


def _renew_after_fork() -> None:
    global _process_random  # noqa: PLW0603  # one value of the process
    _process_random = secrets.token_bytes(5)


os.register_at_fork(after_in_child=_renew_after_fork)


def make_id() -> str:
    """Return a new id. Ids of one process are in the order of their creation within a second."""
    seconds = int(time.time()) & 0xFFFFFFFF
    return f"{seconds:08x}{_process_random.hex()}{next(_counter) & 0xFFFFFF:06x}"


def is_id(text: str) -> bool:
    """Whether the text is an id in the form in which `make_id` writes it."""
    return _ID_FORM.fullmatch(text) is not None


def creation_time(identifier: str) -> int:
    """The seconds since 1970 at which an id was made, by the clock of its process."""
    return int(identifier[:8], 16)
