"""The orders in which the files of a run begin, and in which a process reads them.

They begin with those that compute beside those that wait.

`make test` gives each of its processes the next file when it has ended one. In the order of names four browsers would share two
cores at the beginning, and the cores would be idle later, while four files wait for timeouts.

Each process reads all files. In a new clone it also compiles those that no other one has compiled before, so each begins at another
one: in one order all would compile the same file at the same time.
"""

import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import pytest

TESTS = Path(__file__).parents[1]
LAST = "unit"
"""The folder with short files, which fill the end."""


def spread(files: Iterable[Path]) -> list[Path]:
    """Spread the files of each folder of tests evenly over the run, in their order."""
    folders: defaultdict[str, list[Path]] = defaultdict(list)
    for file in files:
        folders[file.relative_to(TESTS).parts[0]].append(file)
    last = folders.pop(LAST, [])
    places = [(index / len(found), file) for found in folders.values() for index, file in enumerate(found)]
    return [file for _, file in sorted(places, key=lambda place: place[0])] + last


T = TypeVar("T")


def rotate(values: Sequence[T], worker: int, workers: int) -> list[T]:
    """Begin where a worker shall begin: each with another part."""
    begin = len(values) * worker // workers
    return [*values[begin:], *values[:begin]]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each process of a run read the entries of a folder in another order."""
    report = yield
    if isinstance(collector, pytest.Directory) and report.result:
        worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
        report.result = rotate(report.result, int(worker), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reorder files, not what is in them: the same in every process."""
    order = {file: number for number, file in enumerate(spread(sorted({item.path for item in items})))}
    items.sort(key=lambda item: order[item.path])
