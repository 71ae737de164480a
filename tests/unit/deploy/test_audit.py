"""deploy.audit: a package that was not looked up is a failure, whatever pip-audit says of it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy import audit

LOCK = """\
# a comment
Foo_Bar==1.2 \\
    --hash=sha256:00
baz[extra]==2.0 ; python_full_version >= '3.0' \\
    --hash=sha256:00
elsewhere==3.0 ; sys_platform == 'no such platform'
"""
PINS = {"foo-bar": "1.2", "baz": "2.0"}


def answer(name: str, version: str, *vulnerabilities: str) -> dict[str, Any]:
    return {"name": name, "version": version, "vulns": [{"id": one} for one in vulnerabilities]}


def test_a_lock_is_read_for_this_platform() -> None:
    assert audit.read_lock(LOCK) == PINS


@pytest.mark.parametrize(
    "lock", ["", "# nothing\n", "foo>=1\n", "foo\n", "-e .\n", "foo==1.*,==1.2\n", "https://example.com/a.whl\n"]
)
def test_what_pins_nothing_is_refused(lock: str) -> None:
    with pytest.raises(ValueError, match=r"not a pinned package|empty"):
        audit.read_lock(lock)


def test_every_lock_of_this_repository_is_read() -> None:
    for path in Path("requirements").glob("*.txt"):
        text = path.read_text("utf-8")
        assert 0 < len(audit.read_lock(text)) <= text.count("==")


@pytest.mark.parametrize(
    ("report", "status"),
    [
        ({"dependencies": [answer("foo.bar", "1.2"), answer("baz", "2.0")]}, 0),
        ({"dependencies": [answer("foo-bar", "1.2"), answer("baz", "2.0", "PYSEC-1")]}, 1),
        ({"dependencies": [answer("baz", "2.0", "PYSEC-1")]}, 1),
        ({"dependencies": [answer("foo-bar", "1.2")]}, 2),
        ({"dependencies": [answer("foo-bar", "1.1"), answer("baz", "2.0")]}, 2),
        ({"dependencies": [answer("foo-bar", "1.2"), {"name": "baz", "skip_reason": "not found on PyPI"}]}, 2),
        ({}, 2),
        ([], 2),
    ],
)
def test_the_answer_is_compared_with_the_lock(report: Any, status: int) -> None:
    assert audit.judge(PINS, report).status == status


@pytest.mark.parametrize(
    "output", [json.dumps({"dependencies": [answer("foo-bar", "1.2"), answer("baz", "2.0")]}), "", "<html>"]
)
def test_an_answer_that_is_none_is_a_failure(tmp_path: Path, output: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)
    program = [sys.executable, "-c", f"print({output!r}); import sys; sys.exit(0)"]
    if output.startswith("{"):
        assert audit.audit_lock(lock, program).status == 0
    else:
        with pytest.raises(ValueError, match="pip-audit gave no answer"):
            audit.audit_lock(lock, program)


def test_the_command_fails_where_there_is_no_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(LOCK)
    monkeypatch.setattr(sys, "executable", "/nothing/here")
    assert audit.main([str(lock), str(tmp_path / "missing.txt")]) == 2
    assert capsys.readouterr().err.count("not audited") == 2
