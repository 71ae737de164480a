"""docs/glossary.md: each place that it names exists, and no module of product code is missing."""

import re

import pytest

from deploy.local.processes import PROJECT_ROOT

ROWS = [
    (number, line)
    for number, line in enumerate((PROJECT_ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines(), 1)
    if line.startswith("| ") and not line.startswith("| term ")
]


def place_of(row: str) -> list[str]:
    """Paths and names in the last cell: each name belongs to the path before it."""
    return re.findall(r"`([^`]+)`", row.rstrip(" |").rsplit("|", 1)[1])


@pytest.mark.parametrize(("number", "row"), ROWS, ids=[f"line {number}" for number, _ in ROWS])
def test_the_place_exists(number: int, row: str) -> None:
    source = ""
    for word in place_of(row):
        if "/" in word:
            path = PROJECT_ROOT / word
            assert path.is_file(), f"line {number}: {word}"
            source = path.read_text("utf-8")
        else:
            assert re.search(rf"^(?:class |(?:async )?def )?{word}\b", source, re.MULTILINE), (
                f"line {number}: {word} is not defined there"
            )
    assert source, f"line {number}: no path"


def test_each_term_stands_once() -> None:
    terms = [row.split("|")[1].strip() for _, row in ROWS]
    assert sorted({term for term in terms if terms.count(term) > 1}) == []


def test_every_module_has_a_term() -> None:
    """Packages without code, and `__main__.py` of a service, need none."""
    named = {word for _, row in ROWS for word in place_of(row)}
    modules = {
        path.relative_to(PROJECT_ROOT).as_posix()
        for folder in ("services", "gateway", "deploy", "clients/python/src")
        for path in (PROJECT_ROOT / folder).rglob("*.py")
        if path.name not in {"__init__.py", "__main__.py"}
    }
    assert sorted(modules - named) == []
