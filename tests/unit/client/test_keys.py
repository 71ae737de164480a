"""The names of Redis keys and channels: what the Lua scripts compute is what gridcast._bus.keys builds."""

import re

import pytest

from gridcast._bus import keys
from gridcast._bus.lua_script import LuaScript
from gridcast._bus.wakeup import PUBLISH_EVENT
from services.socket import scripts

SCRIPTS = {"PUBLISH_EVENT": PUBLISH_EVENT} | {
    name: value for name, value in vars(scripts).items() if isinstance(value, LuaScript)
}
PREFIXES = {
    keys.ALL_CHANNEL,
    keys.session_key(""),
    keys.closed_key(""),
    keys.node_key(""),
    keys.topic_channel(""),
    keys.history_key("", "", "").removesuffix("::"),
    keys.deduplication_key("", "", "", "").removesuffix(":  "),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_names_keys_as_the_module_does(name: str) -> None:
    assert set(re.findall(r"'(gridcast:[^']*)'", SCRIPTS[name].source)) <= PREFIXES


def test_every_name_that_scripts_compute_is_compared() -> None:
    found = {literal for script in SCRIPTS.values() for literal in re.findall(r"'(gridcast:[^']*)'", script.source)}
    assert found == PREFIXES


def test_a_replica_has_one_name_for_its_key_and_its_channel() -> None:
    """The publish script tests the key and publishes on the channel by one variable."""
    assert keys.node_key("a") == keys.node_channel("a") == "gridcast:node:a"
