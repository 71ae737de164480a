"""services.common.variables: which environment variables a process accepts."""

import os
import re
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from services.common.settings import Settings
from services.common.variables import (
    CLIENT_VARIABLES,
    PREFIX,
    RENAMED,
    VARIABLES,
    UnknownVariableError,
    check_names,
)
from services.live.settings import LiveSettings
from services.socket.settings import SocketSettings
from services.stream.settings import StreamSettings
from services.upload.settings import UploadSettings
from tests.support.processes import run_module

ROOT = Path(__file__).parents[3]
SETTINGS: tuple[type[Settings], ...] = (UploadSettings, StreamSettings, SocketSettings, LiveSettings, GatewaySettings)
COMMANDS = [["services.upload"], ["services.stream"], ["services.socket"], ["services.live"], ["gateway"]]
COMMANDS += [["services.upload.collect_garbage"], ["deploy.local", "--port", "1"]]
COMMANDS += [["services.upload.copy_store", "files:/nowhere", "files:/neither"]]


def test_the_table_is_the_union_of_all_settings() -> None:
    assert {f"{PREFIX}{field.upper()}" for settings in SETTINGS for field in settings.model_fields} == VARIABLES


def test_what_the_command_line_reads_is_known() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "clients/python/src/gridcast").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get)?[(\[]"(GRIDCAST_\w+)"', source))
    assert read - {name for name in read if name.removesuffix("_FILE") in VARIABLES} == CLIENT_VARIABLES


def test_no_old_name_is_in_use_and_every_new_name_is() -> None:
    assert not RENAMED.keys() & VARIABLES
    assert set(RENAMED.values()) <= VARIABLES


@pytest.mark.parametrize(
    "name", [*sorted(VARIABLES | CLIENT_VARIABLES), "GRIDCAST_REDIS_URL_FILE", "PATH", "GRIDCASTING", "REDIS_URL"]
)
def test_known_and_foreign_names_are_accepted(name: str) -> None:
    check_names([name])


@pytest.mark.parametrize(("old", "new"), [*RENAMED.items(), ("GRIDCAST_DRAIN_FILE", "GRIDCAST_SHUTDOWN_TIMEOUT_FILE")])
def test_a_renamed_variable_is_refused_with_its_new_name(old: str, new: str) -> None:
    with pytest.raises(UnknownVariableError, match=f"^{old} was renamed to {new}$"):
        check_names([old, "PATH"])


def test_every_fault_is_named_in_one_message() -> None:
    with pytest.raises(UnknownVariableError) as caught:
        check_names(["GRIDCAST_DRAIN", "GRIDCAST_HOTS", "GRIDCAST_HOST"])
    assert str(caught.value).split("; ", 1)[0] == "GRIDCAST_DRAIN was renamed to GRIDCAST_SHUTDOWN_TIMEOUT"
    assert "GRIDCAST_HOTS is not a setting of Gridcast" in str(caught.value)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_process_refuses_to_start(command: list[str]) -> None:
    run = run_module(*command, env={**os.environ, "GRIDCAST_READER_SECONDS": "5"}, timeout=30)
    assert run.returncode == 1
    assert run.stderr == "gridcast: GRIDCAST_READER_SECONDS was renamed to GRIDCAST_SEND_TIMEOUT\n"
