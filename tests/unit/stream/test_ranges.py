"""services.stream.ranges: tables, and Hypothesis against a slow and obvious model that works on sets of positions."""

import itertools
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.stream.ranges import MAX_RANGES, ByteRange, parse_range_header, resolve_ranges

DIGITS = set("0123456789")


def reference_ranges(header: str, length: int) -> list[int] | str:
    """The byte positions in the order in which they are first requested, `ignored` or `unsatisfiable`."""
    if header[:6].lower() != "bytes=":
        return "ignored"
    elements = [element.strip(" \t") for element in header[6:].split(",")]
    elements = [element for element in elements if element]
    if not 1 <= len(elements) <= MAX_RANGES:
        return "ignored"
    everything = list(range(length))
    wanted: list[int] = []
    for element in elements:
        if element.count("-") != 1:
            return "ignored"
        left, right = element.split("-")
        if not (left or right) or not set(left + right) <= DIGITS:
            return "ignored"
        if left and right and int(right) < int(left):
            return "ignored"
        if not left:
            found = everything[-int(right) :] if int(right) else []
        else:
            found = everything[int(left) : int(right) + 1] if right else everything[int(left) :]
        wanted += [position for position in found if position not in wanted]
    return wanted or "unsatisfiable"


def parsed_ranges(header: str, length: int) -> list[ByteRange] | str:
    specs = parse_range_header(header)
    if specs is None:
        return "ignored"
    return resolve_ranges(specs, length) or "unsatisfiable"


NUMBERS = st.one_of(st.integers(0, 40).map(str), st.sampled_from(["", "00", "007", "0" * 30 + "3", str(10**30)]))
ELEMENTS = st.one_of(
    st.tuples(NUMBERS, NUMBERS).map("-".join),
    st.sampled_from(
        ["", " ", "\t", "-", "--5", "5", "1-2-3", "+1-2", "1_0-20", "²-5", "\u0663-\u0665", "0x1-2", "a-b", "1 - 2"]
    ),
)
HEADERS = st.tuples(
    st.sampled_from(["bytes=", "bytes=", "bytes=", "Bytes=", "BYTES=", "bytes", "items=", "bytes =", ""]),
    st.lists(st.tuples(st.sampled_from(["", " ", "\t "]), ELEMENTS).map("".join), max_size=20).map(",".join),
).map("".join)


@settings(max_examples=1000, deadline=None)
@given(HEADERS, st.integers(0, 35))
@example("bytes=0-0,2-2,1-1", 3)
@example("bytes=4-5,0-1,2-3", 6)
@example("bytes=-0", 0)
def test_parsed_ranges_match_the_model(header: str, length: int) -> None:
    expected, found = reference_ranges(header, length), parsed_ranges(header, length)
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    positions = [position for item in found for position in range(item.first, item.last + 1)]
    assert sorted(positions) == sorted(expected), "each position wanted, and each once"
    edges = sorted((item.first, item.last) for item in found)
    assert all(before[1] + 1 < after[0] for before, after in itertools.pairwise(edges)), "nothing touches"
    earliest = [min(expected.index(position) for position in range(item.first, item.last + 1)) for item in found]
    assert earliest == sorted(earliest), "in the order asked for"


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=60), st.integers(0, 100))
def test_arbitrary_text_raises_nothing(text: str, length: int) -> None:
    for header in (text, f"bytes={text}"):
        assert isinstance(parsed_ranges(header, length), (list, str))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", [(0, 0)]),
        ("bytes=0-", [(0, 99)]),
        ("bytes=-1", [(99, 99)]),
        ("bytes=-1000", [(0, 99)]),
        ("bytes=90-1000", [(90, 99)]),
        ("bytes=99-99", [(99, 99)]),
        ("bytes=5-9,0-4", [(0, 9)]),
        ("bytes=50-59, 0-9", [(50, 59), (0, 9)]),
        ("bytes=0-1,2000-", [(0, 1)]),
        ("bytes=0-1,", [(0, 1)]),
        ("bytes=,,0-1", [(0, 1)]),
        ("BYTES=0-1", [(0, 1)]),
        ("bytes=100-", "unsatisfiable"),
        ("bytes=-0", "unsatisfiable"),
        (f"bytes={10**30}-", "unsatisfiable"),
        (f"bytes=0-{10**30}", [(0, 99)]),
        (f"bytes=-{10**30}", [(0, 99)]),
        ("bytes=9-5", "ignored"),
        ("bytes=abc", "ignored"),
        ("bytes=", "ignored"),
        ("bytes=,", "ignored"),
        ("bytes=--5", "ignored"),
        ("bytes=0-1,x", "ignored"),
        ("items=0-5", "ignored"),
        ("bytes 0-5", "ignored"),
        ("bytes=²-5", "ignored"),
        ("bytes=1_0-20", "ignored"),
        ("bytes=+0-5", "ignored"),
        ("bytes=0-5\n", "ignored"),
        ("bytes=" + ",".join(f"{n * 5}-{n * 5}" for n in range(16)), [(n * 5, n * 5) for n in range(16)]),
        ("bytes=" + ",".join(f"{n * 5}-{n * 5}" for n in range(17)), "ignored"),
    ],
)
def test_range_table(header: str, expected: list[tuple[int, int]] | str) -> None:
    """Cases 37 to 44 of a file of 100 bytes."""
    found = parsed_ranges(header, 100)
    assert (found if isinstance(found, str) else [(item.first, item.last) for item in found]) == expected


LONG_WHITESPACE = " \t" * 8000
"""As long as a header may be."""


@pytest.mark.parametrize(
    "text",
    [
        *(",".join([element] * 10_000) for element in ("0-", "0-0", "-1", "5-9", "", " ", "x")),
        *(
            f"{LONG_WHITESPACE}x",
            f"{LONG_WHITESPACE}0-0{LONG_WHITESPACE}x",
            f"0-{LONG_WHITESPACE}0",
            f"{LONG_WHITESPACE}-",
            f"0-0,{LONG_WHITESPACE}x",
            "0" * 16_000 + "x",
        ),
    ],
    ids=lambda text: text.strip()[:9] or "spaces",
)
def test_ten_thousand_ranges_are_cheap(text: str) -> None:
    """Case 44, P9: CPU, not wall time. Far under the 20 ms that the whole request has."""
    header = f"bytes={text}"
    began = time.process_time()
    assert parsed_ranges(header, 1 << 30) == "ignored"
    assert time.process_time() - began < 0.002
