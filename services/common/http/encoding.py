"""The head of an answer as it is sent, and an answer that is there as a whole. Pure: it knows no connection and no route."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

# What may stand in a head beside line ends (RFC 9110, 5.5): a value with a line end in it would be a field of somebody else's.
_FIELD_BYTES = bytes({0x09, *range(0x20, 0x100)} - {0x7F})

Field = tuple[bytes, bytes]


def lines(fields: Iterable[Field]) -> bytes:
    """Fields as they are sent. RuntimeError where one would end its line."""
    made = [b"%s: %s\r\n" % field for field in fields]
    joined = b"".join(made)
    if joined.translate(None, _FIELD_BYTES) != b"\r\n" * len(made):
        raise RuntimeError("a control character in a header field")
    return joined


@dataclass(frozen=True, slots=True)
class Shared:
    """Fields that many answers have in common, neither length nor connection among them: made and looked at once."""

    fields: tuple[Field, ...]
    lines: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lines", lines(self.fields))


NONE = Shared(())


class Ready(NamedTuple):
    """An answer for which nobody has to be waited for. Its length is among `headers`, unless its status has no content."""

    status: int
    headers: list[Field]
    shared: Shared
    body: bytes | memoryview


def head(status: int, fields: Iterable[Field], shared: Shared) -> bytes:
    """Status line, fields whose names are in lower case, and the empty line."""
    return b"".join((STATUS_LINE[status], lines(fields), shared.lines, b"\r\n"))
