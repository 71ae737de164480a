"""docs/glossary.md: each place that it names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    (number, line)
    for number, line in enumerate((ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines(), 1)
    if line.startswith("| ") and not line.startswith("| term ")
]


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[f"line {number}" for number, _ in ROWS])
def test_the_place_exists(number: int, row: str) -> None:
    place = row.rstrip(" |").rsplit("|", 1)[1]
    words = re.findall(r"`([^`]+)`", place)
    source = ""
    for word in words:
        if "/" in word:
            path = ROOT / word
            assert path.is_file(), word
            source = path.read_text("utf-8")
        else:
            assert re.search(rf"^(?:class |(?:async )?def )?{word}\b", source, re.MULTILINE), (
                f"{word} is not defined there"
            )
    assert source, "no path"


def test_each_term_stands_once() -> None:
    terms = [row.split("|")[1].strip() for _, row in ROWS]
    assert sorted({term for term in terms if terms.count(term) > 1}) == ["preconditions"]  # of writes and of reads
