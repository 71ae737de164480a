"""Plans the response to a GET or HEAD of an upload that is not complete: which bytes, and what is said of the rest. Pure.

Where the length of the upload is known its ranges are those of the whole file, and a response waits for what is not there yet.
Where it is not, a range ends with what there is (`Content-Range: bytes a-b/*`, RFC 9110, 14.4), or goes on as the upload does where
it is asked for with a very large last position (RFC 8673, 2.2). A client that asks for everything from the first byte on gets that
as 200: players take the end of a range of unknown length for the end of the file.
"""

from typing import NamedTuple

from services.common.errors import RangeNotSatisfiable
from services.common.http.encoding import Field
from services.stream.ranges import RangeSpec, parse_range_header, resolve_ranges

VERY_LARGE_POSITION = (1 << 53) - 1
"""The last position with which a client asks for a range that goes on (RFC 8673, 3)."""


class GrowingPlan(NamedTuple):
    """A response: bytes from `first` on, up to and without `end`, None where it goes on until the upload is complete."""

    status: int
    first: int
    end: int | None
    headers: list[Field]


def first_position(range_header: str | None) -> int:
    """Return from which byte on a request without a known length asks for: it must be there before its response is planned."""
    spec = _single_range(range_header)
    return spec.first if spec is not None and spec.first is not None else 0


def plan_growing(method: str, range_header: str | None, available: int, length: int | None) -> GrowingPlan:
    """Plan a response. `available` are the bytes that are there, `length` those of the complete file, None where unknown.

    `range_header` is None where it does not apply. Several ranges get the whole file, as if there were none. Raises
    RangeNotSatisfiable.
    """
    spec = _single_range(range_header)
    if length is not None:
        return _plan_known(spec if method == "GET" else None, length)
    if spec is None or spec.first is None:
        return GrowingPlan(200, 0, None, [])
    last = available - 1
    if spec.last is not None and spec.last >= VERY_LARGE_POSITION:
        return GrowingPlan(206, spec.first, None, [(b"content-range", b"bytes %d-%d/*" % (spec.first, spec.last))])
    if method == "GET" and not spec.first and spec.last is None:
        return GrowingPlan(200, 0, None, [])
    last = last if spec.last is None else min(spec.last, last)
    if last < spec.first:
        return GrowingPlan(200, 0, None, [])
    return GrowingPlan(
        206,
        spec.first,
        last + 1,
        [
            (b"content-length", b"%d" % (last + 1 - spec.first)),
            (b"content-range", b"bytes %d-%d/*" % (spec.first, last)),
        ],
    )


def _plan_known(spec: RangeSpec | None, length: int) -> GrowingPlan:
    accepts = (b"accept-ranges", b"bytes")
    if spec is None:
        return GrowingPlan(200, 0, length, [accepts, (b"content-length", b"%d" % length)])
    found = resolve_ranges([spec], length)
    if not found:
        raise RangeNotSatisfiable(length)
    first, last = found[0]
    return GrowingPlan(
        206,
        first,
        last + 1,
        [
            accepts,
            (b"content-length", b"%d" % (last + 1 - first)),
            (b"content-range", b"bytes %d-%d/%d" % (first, last, length)),
        ],
    )


def _single_range(range_header: str | None) -> RangeSpec | None:
    specs = None if range_header is None else parse_range_header(range_header)
    return specs[0] if specs is not None and len(specs) == 1 else None
