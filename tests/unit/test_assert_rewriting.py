"""tests/support/assert_rewriting: pytest finds the bytecode that was written, and nothing was run."""

import importlib.util
import sys
from importlib.abc import Loader
from pathlib import Path

import pytest

from tests.support.assert_rewriting import rewrite

SOURCE = "import sys\n\nsys.ran += 1\n\n\ndef check(value):\n    assert value == 1\n"


def test_a_file_is_rewritten_without_being_run(
    tmp_path: Path, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "ran", 0, raising=False)
    hook = pytestconfig.pluginmanager.rewrite_hook
    assert isinstance(hook, Loader)
    file, broken = tmp_path / "test_small.py", tmp_path / "test_broken.py"
    file.write_text(SOURCE)
    broken.write_text("import sys\nsys.ran += 1\n)")

    rewrite([broken, file], hook)
    (written,) = (tmp_path / "__pycache__").iterdir()
    assert "-pytest-" in written.name
    assert sys.__dict__["ran"] == 0

    before = written.stat()
    specification = importlib.util.spec_from_file_location("test_small", file, loader=hook)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    hook.exec_module(module)
    assert sys.__dict__["ran"] == 1
    assert (written.stat().st_ino, written.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(AssertionError, match="assert 2 == 1"):
        module.check(2)
