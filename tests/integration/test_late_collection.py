"""`late_collection`: workers collect the files that they run, and the run says the same as one that collects them first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.processes import PROJECT_ROOT

LATE = ("-n2", "--dist=loadfile")
LAST_WORDS = re.compile(r"(\d+) (passed|failed|error|errors|skipped)\b")
FILES = {
    "conftest.py": """
import pytest

@pytest.fixture(scope="session")
def session_log(tmp_path_factory):
    log = tmp_path_factory.getbasetemp().parent / "log"
    yield log
    with log.open("a") as file:
        file.write("session ends\\n")

@pytest.fixture(scope="module", autouse=True)
def module_log(request, session_log):
    yield
    with session_log.open("a") as file:
        file.write(f"{request.node.name} ends\\n")

@pytest.fixture(scope="package")
def of_package():
    yield
""",
    "a/__init__.py": "",
    "a/test_one.py": "def test_a(of_package): pass\ndef test_b(of_package): pass\n",
    "a/test_two.py": "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_n(n): assert n != 3\n",
    "b/__init__.py": "",
    "b/test_chosen.py": "import pytest\n@pytest.mark.left_out\ndef test_a(): pass\ndef test_b(): pass\n",
    "b/test_left_out.py": "import pytest\npytestmark = pytest.mark.left_out\ndef test_a(): pass\n",
    "b/test_no_tests.py": "",
    "c/test_skipped.py": "import pytest\npytest.skip('not here', allow_module_level=True)\n",
    "c/test_slow.py": "import time\ndef test_a(): time.sleep(0.2)\ndef test_b(): time.sleep(0.2)\n",
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plugins = [
        "-p",
        "tests.support.late_collection",
        "-p",
        "no:schemathesis",
        "-p",
        "no:valkey",
        "-p",
        "no:cacheprovider",
    ]
    command = [sys.executable, "-m", "pytest", *plugins, "-ra", f"--rootdir={folder}", *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT_ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    return {word.rstrip("s"): int(number) for number, word in LAST_WORDS.findall(done.stdout.splitlines()[-1])}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = left_out\ntimeout = 0.3\n", "utf-8")
    return folder


def test_each_test_runs_once_as_in_one_process(project: Path) -> None:
    """The limit of a test's time is not that of its file; a fixture ends with its module or its session."""
    one, late = (run(project, *options, "-mnot left_out", "-v") for options in ((), LATE))
    for done in (one, late):
        assert done.returncode == 1, done.stdout
        assert counts(done) == {"passed": 9, "failed": 1, "skipped": 1}
        assert "FAILED a/test_two.py::test_n[3]" in done.stdout
        assert "c/test_skipped.py:2: not here" in done.stdout
    tests = [sorted(set(re.findall(r"[abc]/test_\w+\.py::[^\s*]+", done.stdout))) for done in (one, late)]
    assert len(tests[0]) == 10
    assert tests[0] == tests[1]
    assert "[100%]" in late.stdout


def test_fixtures_end_once(project: Path) -> None:
    base = project.parent / "temporary"
    assert run(project, *LATE, "-mnot left_out", f"--basetemp={base}").returncode == 1
    lines = (base / "log").read_text("utf-8").splitlines()
    modules = [Path(line.removesuffix(" ends")).name for line in lines if line != "session ends"]
    assert sorted(modules) == ["test_chosen.py", "test_one.py", "test_slow.py", "test_two.py"]
    assert lines.count("session ends") == 2, "once in each worker"


def test_a_file_that_cannot_be_imported_is_an_error(project: Path) -> None:
    (project / "a/test_one.py").write_text("import nothing_of_this_name\n", "utf-8")
    done = run(project, *LATE, "-mnot left_out")
    assert done.returncode == 1
    assert counts(done) == {"passed": 7, "failed": 1, "skipped": 1, "error": 1}
    assert "ERROR a/test_one.py" in done.stdout
    assert "nothing_of_this_name" in done.stdout


def test_a_run_without_a_chosen_test_fails(project: Path) -> None:
    assert run(project, *LATE, "-mleft_out and not left_out").returncode == 5


@pytest.mark.parametrize("chosen", [["-ktest_n"], ["a/test_two.py::test_n"]])
def test_tests_that_are_named_are_collected_first(project: Path, chosen: list[str]) -> None:
    done = run(project, *LATE, *chosen)
    assert counts(done).items() >= {"passed": 4, "failed": 1}.items()
    assert "2 workers [5 items]" in done.stdout
