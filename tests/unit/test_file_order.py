"""tests/support/file_order: no file is lost, those of each folder are spread, short ones come last."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.support.file_order import TESTS, spread

FOLDERS = ("browser", "clients", "e2e", "faults", "integration", "unit")


@given(st.lists(st.integers(0, 12), min_size=len(FOLDERS), max_size=len(FOLDERS)))
def test_files_are_spread(counts: list[int]) -> None:
    files = [
        TESTS / folder / f"test_{number:02}.py"
        for folder, count in zip(FOLDERS, counts, strict=True)
        for number in range(count)
    ]
    ordered = spread(files)
    assert sorted(ordered) == files
    short = counts[-1]
    mixed = ordered[: len(ordered) - short]
    assert [file.parent.name for file in ordered[len(mixed) :]] == ["unit"] * short
    for folder, count in zip(FOLDERS[:-1], counts[:-1], strict=True):
        of_folder = [file for file in ordered if file.parent.name == folder]
        assert of_folder == sorted(of_folder)
        # By any moment each folder has begun its part of the files, one more or less for each folder.
        for begun in range(len(mixed)):
            expected = count * begun / len(mixed)
            assert abs(sum(file in of_folder for file in mixed[:begun]) - expected) <= len(FOLDERS)


def test_a_file_below_a_folder_belongs_to_it() -> None:
    deep: Path = TESTS / "unit" / "common" / "test_a.py"
    assert spread([deep, TESTS / "faults" / "test_b.py"]) == [TESTS / "faults" / "test_b.py", deep]
