"""services.socket.disconnect: the one table of close codes, in the code and in docs/messages.md."""

import ast
from collections import Counter
from pathlib import Path

import pytest

from services.socket import disconnect
from services.socket.disconnect import Disconnect

ROOT = Path(__file__).parents[3]
TABLE = {name: row for name, row in vars(disconnect).items() if isinstance(row, Disconnect)}
CLOSE_CODES = range(1001, 1016)
"""RFC 6455, 7.4.1 and what IANA has registered since; without 1000, which is a size as well."""
PYTHON_FILES = [
    path for folder in ("services/socket", "services/common/server/websocket") for path in (ROOT / folder).glob("*.py")
]


def documented_rows() -> list[tuple[int, str, bool]]:
    text = (ROOT / "docs" / "messages.md").read_text("utf-8")
    section = text.partition("### Why the server closes\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    assert rows[0] == ["code", "reason", "why", "reconnect"]
    assert {row[3][:3].rstrip(":, ") for row in rows[2:]} == {"yes", "no"}
    return [(int(code), reason, reconnect.startswith("yes")) for code, reason, _, reconnect in rows[2:]]


def test_the_document_has_the_same_table() -> None:
    assert Counter(documented_rows()) == Counter((row.code, row.reason, row.reconnect) for row in TABLE.values())


def test_code_and_reason_identify_a_row() -> None:
    assert len({(row.code, row.reason) for row in TABLE.values()}) == len(TABLE)


def test_a_reason_fits_in_a_close_frame() -> None:
    """A control frame has at most 125 bytes, two of them for the code (RFC 6455, 5.5)."""
    assert all(len(row.reason.encode()) <= 123 for row in TABLE.values())


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_close_codes_are_those_of_the_table(path: Path) -> None:
    """The service names no code outside of the table; the server below it, which cannot import the table, uses its codes."""
    numbers = {
        node.value
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and type(node.value) is int and node.value in CLOSE_CODES
    }
    if path.parent.name == "socket" and path.name != "disconnect.py":
        assert numbers == set(), "a close code outside of the table"
    else:
        assert numbers <= {row.code for row in TABLE.values()}
