"""docs/operations.md: its table of settings matches the settings classes, and every metric it names exists.

Run as a program it writes the table.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deploy.local.processes import PROJECT_ROOT

if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT_ROOT))

from gateway.settings import GatewaySettings
from services.common.settings import Settings
from services.common.telemetry import metrics
from services.common.variables import PREFIX as ENV_PREFIX
from services.socket.settings import SocketSettings
from services.stream.settings import StreamSettings
from services.upload.settings import UploadSettings

PAGE = PROJECT_ROOT / "docs/operations.md"
SETTINGS_CLASSES: dict[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "upload": UploadSettings,
    "stream": StreamSettings,
    "socket": SocketSettings,
}
SETTINGS_TABLE = re.compile(r"(<!-- settings: .*? -->\n)(.*?)(<!-- end of settings -->\n)", re.DOTALL)


def settings_rows() -> Iterator[tuple[str, str, str, str]]:
    """Variable, services, default, meaning: one row for settings that are the same for all services."""
    merged: dict[tuple[str, str, str], list[str]] = {}
    for process, settings in SETTINGS_CLASSES.items():
        for name, field in settings.model_fields.items():
            row = (f"`{ENV_PREFIX}{name.upper()}`", format_default(field.default), field.description or "")
            merged.setdefault(row, []).append(process)
    for (variable, default, meaning), processes in sorted(merged.items(), key=lambda item: -len(item[1])):
        yield variable, "all" if len(processes) == len(SETTINGS_CLASSES) else ", ".join(processes), default, meaning


def format_default(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, tuple):
        default = ", ".join(getattr(item, "origin", str(item)) for item in default)
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default}`" if default != "" else ""


def format_table() -> str:
    head = ("variable", "process", "default", "meaning")
    lines = [head, ("---",) * 4, *settings_rows()]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def test_settings_table_matches_the_code() -> None:
    found = SETTINGS_TABLE.search(PAGE.read_text("utf-8"))
    assert found, "the marks around the table are gone"
    missing = set(format_table().splitlines()) - set(found[2].splitlines())
    surplus = set(found[2].strip().splitlines()) - set(format_table().splitlines())
    assert (missing, surplus) == (set(), set()), "run: python tests/unit/deploy/test_operations_docs.py"


def test_every_setting_has_a_description() -> None:
    assert all(meaning for _, _, _, meaning in settings_rows())


def test_named_metrics_exist() -> None:
    known = set(re.findall(r'"(gridcast_[a-z_]+)"', Path(metrics.__file__).read_text("utf-8")))
    named = set(re.findall(r"`(gridcast_[a-z_]+)", PAGE.read_text("utf-8")))
    assert named - known == set()


def test_named_files_exist() -> None:
    for name in set(re.findall(r"(?:deploy|tests|docs)/[A-Za-z0-9_./-]+[a-z]", PAGE.read_text("utf-8"))):
        assert (PROJECT_ROOT / name).exists(), name


def test_named_settings_exist() -> None:
    known = {f"{ENV_PREFIX}{name.upper()}" for settings in SETTINGS_CLASSES.values() for name in settings.model_fields}
    assert set(re.findall(rf"\b{ENV_PREFIX}[A-Z_]+[A-Z]", PAGE.read_text("utf-8"))) - known == set()


if __name__ == "__main__":
    PAGE.write_text(
        SETTINGS_TABLE.sub(lambda found: found[1] + format_table() + found[3], PAGE.read_text("utf-8")), "utf-8"
    )
