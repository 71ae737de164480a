"""docs/live-faults.md: each of its rows has a test that names it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs/live-faults.md"
ROW = re.compile(r"^\| (\d+) \|", re.MULTILINE)
NAMED = re.compile(r"\b[Rr]ows? (\d+)(?:,? and (\d+))?")


def named_rows() -> dict[int, list[str]]:
    """The tests that name each row in their docstrings."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*live*.py")) + sorted(
        (ROOT / "tests/unit").rglob("live/test_*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for match in NAMED.finditer(ast.get_docstring(node) or ""):
                    for number in filter(None, match.groups()):
                        found.setdefault(int(number), []).append(f"{path.name}::{node.name}")
    return found


def test_each_row_has_a_test() -> None:
    rows = [int(number) for number in ROW.findall(TABLE.read_text("utf-8"))]
    assert rows == list(range(1, 41))
    named = named_rows()
    assert not [row for row in rows if row not in named]
    assert not named.keys() - set(rows)
