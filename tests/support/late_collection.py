"""A worker of a run collects a file when it has to run it: before, each of them imported all files, and waited for the slowest.

xdist gives whole files to the workers (`--dist loadfile`), so that its items are files here. A run that names tests, or chooses
them by name or by the results of the last run, collects all of them first, as pytest does.
"""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_CHOICES = ("keyword", "lf", "failedfirst", "newfirst", "stepwise", "stepwise_skip")
"""Options by which the tests of a run depend on those of all files."""
_ALL = "*"
"""The name of the item of a file."""


class UncollectedFile(pytest.File):
    """A file of tests that is not imported."""

    def collect(self) -> Iterator["FileItem"]:
        """Yield what xdist gives to a worker."""
        yield FileItem.from_parent(self, name=_ALL)


class FileItem(pytest.Item):
    """All tests of a file."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.add_marker(pytest.mark.timeout(0))  # that of pytest-timeout is for a test

    def runtest(self) -> None:
        """Its tests run instead."""
        raise NotImplementedError

    def collect_tests(self) -> list[pytest.Item]:
        """Import the file and collect its tests. An error is reported as one of the collection."""
        gc.disable()
        try:
            assert self.parent is not None
            module = pytest.Module.from_parent(self.parent.parent, path=self.path)
            tests = list(self.session.genitems(module))
            self.config.hook.pytest_collection_modifyitems(session=self.session, config=self.config, items=tests)
            return tests
        finally:
            gc.freeze()
            gc.enable()

    def run_tests(self, nextitem: pytest.Item | None) -> None:
        """Run them as the session's own loop does, the last one before `nextitem`."""
        session = self.session
        place = session.items.index(self)
        tests = self.collect_tests()
        for test, following in zip(tests, [*tests, nextitem][1:], strict=True):
            session.items[place] = test  # the worker of xdist compares its reports with it
            self.ihook.pytest_runtest_protocol(item=test, nextitem=following)
            if session.shouldfail or session.shouldstop:
                break
        session.items[place] = self
        if not tests:  # what is set up is still that of a file before
            session._setupstate.teardown_exact(nextitem)
        self.ihook.pytest_runtest_logfinish(nodeid=self.nodeid, location=self.location)


class LateCollection:
    """Of a worker."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makemodule(self, module_path: Path, parent: pytest.Collector) -> UncollectedFile:
        """Put the file in the place of its module."""
        return UncollectedFile.from_parent(parent, path=module_path)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        """Run the tests of a file."""
        if not isinstance(item, FileItem):
            return None
        item.run_tests(nextitem)
        return True


class FileProgress:
    """Of the process that gives files to the workers: the percentage that it prints is that of the files."""

    def __init__(self, session: pytest.Session, files: int) -> None:
        self._session = session
        self._files = files
        self._finished_files = 0
        self._finished_tests = 0

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Count a test or a file, and say how many tests there are if all files have as many."""
        if nodeid.endswith(f"::{_ALL}"):
            self._finished_files += 1
        else:
            self._finished_tests += 1
        self._session.testscollected = self._finished_tests * self._files // max(1, self._finished_files)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker whether it collects late."""
    config: pytest.Config = node.config
    chosen = any(config.getoption(name, None) for name in _CHOICES) or any("::" in argument for argument in config.args)
    node.workerinput["collects_late"] = config.getoption("dist") == "loadfile" and not chosen


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Begin to count with the first worker that is ready."""
    plugins = node.config.pluginmanager
    if node.workerinput["collects_late"] and not plugins.has_plugin("file-progress"):
        plugins.register(FileProgress(plugins.get_plugin("session"), len(ids)), "file-progress")


def pytest_configure(config: pytest.Config) -> None:
    """Collect late in a worker that shall."""
    if getattr(config, "workerinput", {}).get("collects_late"):
        config.pluginmanager.register(LateCollection())
