"""docs/operations.md: its settings are those of the classes, its figures those of docs/benchmarks.md, and what it names exists.

`python -m tests.unit.deploy.test_operations_docs` writes the tables of settings and of capacity.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deploy.local.processes import PROJECT_ROOT
from gateway.settings import GatewaySettings
from services.common.settings import Settings
from services.common.telemetry import metrics
from services.common.variables import PREFIX as ENV_PREFIX
from services.live.settings import LiveSettings
from services.socket.settings import SocketSettings
from services.stream.settings import StreamSettings
from services.upload.settings import UploadSettings

PAGE = PROJECT_ROOT / "docs/operations.md"
BENCHMARKS = PROJECT_ROOT / "docs/benchmarks.md"
SETTINGS_CLASSES: dict[str, type[Settings]] = {
    "gateway": GatewaySettings,
    "upload": UploadSettings,
    "stream": StreamSettings,
    "socket": SocketSettings,
    "live": LiveSettings,
}
UNIT = re.compile(r"(?:(bytes|seconds|bytes per second): )?(.*)")
SETTINGS_TABLE = re.compile(r"(<!-- settings: .*? -->\n)(.*?)(<!-- end of settings -->\n)", re.DOTALL)


def settings_rows() -> Iterator[tuple[str, str, str, str, str]]:
    """Variable, services, default, meaning: one row for settings that are the same for all services."""
    merged: dict[tuple[str, str, str], list[str]] = {}
    for process, settings in SETTINGS_CLASSES.items():
        for name, field in settings.model_fields.items():
            row = (f"`{ENV_PREFIX}{name.upper()}`", format_default(field.default), field.description or "")
            merged.setdefault(row, []).append(process)
    for (variable, default, meaning), processes in sorted(merged.items(), key=lambda item: -len(item[1])):
        unit, text = UNIT.fullmatch(meaning).groups("")  # type: ignore[union-attr] # matches any line
        yield variable, "all" if len(processes) == len(SETTINGS_CLASSES) else ", ".join(processes), default, unit, text


def format_default(default: Any) -> str:
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    if isinstance(default, tuple):
        default = ", ".join(getattr(item, "origin", str(item)) for item in default)
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    return f"`{default}`" if default != "" else ""


def format_table() -> str:
    head = ("variable", "process", "default", "unit", "meaning")
    lines = [head, ("---",) * 5, *settings_rows()]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def test_settings_table_matches_the_code() -> None:
    found = SETTINGS_TABLE.search(PAGE.read_text("utf-8"))
    assert found, "the marks around the table are gone"
    missing = set(format_table().splitlines()) - set(found[2].splitlines())
    surplus = set(found[2].strip().splitlines()) - set(format_table().splitlines())
    assert (missing, surplus) == (set(), set()), "run: python -m tests.unit.deploy.test_operations_docs"


def test_every_setting_has_a_description() -> None:
    assert all(meaning for *_, meaning in settings_rows())


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


CAPACITY_TABLE = re.compile(r"(<!-- capacity: .*? -->\n)(.*?)(<!-- end of capacity -->\n)", re.DOTALL)
GIB = 2**30


def measured(row: str) -> str:
    """The figure of Gridcast in a row of docs/benchmarks.md, which must be there once."""
    cells = re.findall(rf"^\| {re.escape(row)} \| ([^|]+) \|", BENCHMARKS.read_text("utf-8"), re.MULTILINE)
    assert len(cells) == 1, f"{row}: {cells}"
    return str(cells[0])


def measured_number(row: str) -> float:
    return float(measured(row).split()[0].replace(",", ""))


def two_digits(number: float) -> str:
    return f"{float(f'{number:.1e}'):,.0f}"


def per_second(row: str) -> str:
    """How often one core does in a second what costs as many microseconds."""
    return two_digits(1e6 / measured_number(row))


def capacity_table() -> str:
    requests, pushed = "small requests, CPU", "pushed message through a tunnel, CPU"
    down, up = "download, CPU s/GiB", "upload, CPU s/GiB"
    tus, large, small = "CPU over tus, ms for 100 MB", "CPU of a hot 1 MiB range", "CPU of a hot 64 KiB range"
    delivered, connect = "CPU of a delivered broadcast", "CPU of a connect"
    gigabytes = [f"{GIB / 1e9 / measured_number(row):.1f} GB/s" for row in (down, up)]
    rows = (
        ("", "one core", "from"),
        ("---",) * 3,
        (
            "gateway",
            (
                f"{per_second(requests)} small requests per second; {gigabytes[0]} down or {gigabytes[1]} up; "
                f"{per_second(pushed)} messages per second through tunnels"
            ),
            f"{measured(requests)}; {measured(down)} and {measured(up)} s for a GiB; {measured(pushed)}",
        ),
        ("upload", f"{two_digits(100_000 / measured_number(tus))} MB/s over tus", f"{measured(tus)} ms for 100 MB"),
        (
            "stream",
            f"{per_second(large)} ranges of 1 MiB or {per_second(small)} of 64 KiB per second from its block cache",
            f"{measured(large)} and {measured(small)}",
        ),
        (
            "socket",
            f"{per_second(delivered)} delivered messages or {per_second(connect)} new connections per second",
            f"{measured(delivered)} and {measured(connect)}",
        ),
    )
    return "".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in row)}|\n" for row in rows)


def test_capacity_is_calculated_from_the_benchmarks() -> None:
    found = CAPACITY_TABLE.search(PAGE.read_text("utf-8"))
    assert found, "the marks around the table are gone"
    assert found[2] == capacity_table(), "run: python -m tests.unit.deploy.test_operations_docs"


SAME_FIGURES = {
    "memory of uploads": (r"Twenty concurrent uploads took (\d+) MiB", r"(\d+) MiB for twenty of 256 MiB"),
    "memory of a WebSocket": (
        r"A WebSocket takes ([\d.]+) KiB in a gateway and ([\d.]+) KiB in a socket replica",
        r"memory of an idle connection \| ([\d.]+) KiB|idle tunnel at 5,000, memory \| ([\d.]+) KiB",
    ),
    "a WebSocket, extrapolated": (r"each connection ([\d.]+) KiB", r"memory of an idle connection \| ([\d.]+) KiB"),
    "a message, extrapolated": (r"([\d.]+) us for each", r"CPU of a delivered broadcast \| ([\d.]+) us"),
    "memory at rest": (
        r"a gateway takes (\d+) MiB, upload (\d+), stream (\d+) \(with an empty cache\) and socket (\d+);",
        r"gateway (\d+) MiB, upload (\d+) MiB, stream (\d+) MiB with an empty cache, socket (\d+) MiB",
    ),
    "memory of a gateway": (
        r"gateway \| 500 clients that read nothing of a large file \| (\d+) MiB",
        r"after 500 clients that read nothing of a large file \| \d+, (\d+) and",
    ),
    "memory of a stream service": (
        r"stream \| 8 downloads of files that do not fit into the block cache \| (\d+) MiB",
        r"after 8 downloads of files that do not fit into its block cache \| \d+, (\d+) and",
    ),
    "memory of an upload service": (
        r"upload \| 110 uploads of 12 MiB while MongoDB stands still \| (\d+) MiB",
        r"after 110 uploads of 12 MiB while MongoDB stands still \| \d+, (\d+) and",
    ),
    "memory of a live service": (
        r"live \| 64 publishers of fragments of 2.5 MiB while MongoDB stands still \| (\d+) MiB",
        r"64 publishers of fragments of 2.5 MiB while MongoDB stands still \| \d+ and (\d+) MiB",
    ),
    "memory of a socket service": (
        r"socket \| 200 clients that read nothing of the 1\.2 MB that each is sent \| (\d+) MiB",
        r"after 200 clients that read nothing of 1\.2 MB each \| \d+, (\d+) and",
    ),
    "size of an image": (r"an image adds (\d+) to (\d+) MB", r"size of an image beyond its base \| (\d+) to (\d+) MB"),
    "update": (
        r"each replica of the compose stack was unavailable for (\d+) to (\d+) seconds",
        r"unavailable for (\d+) to (\d+) seconds",
    ),
    "replica set of one node": (r"\((\d+) MB/s in\s+place of (\d+)\)", r"standalone MongoDB \| (\d+) and (\d+) MB/s"),
    "failover of the primary": (
        r"([\d,]+) uploads were acknowledged over (\d+) SIGKILLs of the primary",
        r"([\d,]+) acknowledged over (\d+) SIGKILLs of the primary",
    ),
    "uploads after a failover": (
        r"uploads went on after ([\d.]+) to ([\d.]+) s",
        r"went on after ([\d.]+) to ([\d.]+) s",
    ),
    "failover of Redis": (
        r"the new master accepted the first push after ([\d.]+) to ([\d.]+) s",
        r"with a down-after time of one second \| after ([\d.]+) to ([\d.]+) s",
    ),
}
"""Figures that both pages state in words of their own: a pattern for each page, whose groups must be equal."""


def figures(pattern: str, text: str) -> list[str]:
    """All groups of all matches."""
    return [group for found in re.finditer(pattern, text) for group in found.groups() if group is not None]


@pytest.mark.parametrize(("here", "there"), SAME_FIGURES.values(), ids=SAME_FIGURES.keys())
def test_figures_are_those_of_the_benchmarks(here: str, there: str) -> None:
    stated = figures(here, PAGE.read_text("utf-8"))
    assert stated, "the sentence is gone"
    assert stated == figures(there, BENCHMARKS.read_text("utf-8"))


if __name__ == "__main__":
    text = PAGE.read_text("utf-8")
    for marked, table in ((SETTINGS_TABLE, format_table()), (CAPACITY_TABLE, capacity_table())):
        text = marked.sub(lambda found, table=table: found[1] + table + found[3], text)  # type: ignore[misc]
    PAGE.write_text(text, "utf-8")
