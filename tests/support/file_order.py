"""The order in which the files of a run begin: those that compute beside those that wait.

`make test` gives each of its processes the next file when it has ended one. In the order of names four browsers would share two
cores at the beginning, and the cores would be idle later, while four files wait for timeouts.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Reorder files, not what is in them."""
    order = {file: number for number, file in enumerate(spread(dict.fromkeys(item.path for item in items)))}
    items.sort(key=lambda item: order[item.path])
