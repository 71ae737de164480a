"""services.socket.scripts: each Lua file is loaded once under its name, and none is left over."""

from importlib.resources import files

from gridcast._bus.lua_script import LuaScript
from services.socket import scripts

SCRIPTS = {name: value for name, value in vars(scripts).items() if isinstance(value, LuaScript)}


def test_each_constant_is_the_lua_file_of_its_name() -> None:
    sources = {
        path.name: path.read_text("utf-8")
        for path in files("services.socket").joinpath("lua").iterdir()
        if path.name.endswith(".lua")
    }
    assert {f"{name.lower()}.lua": script.source for name, script in SCRIPTS.items()} == sources


def test_each_file_documents_its_arguments() -> None:
    for name, script in SCRIPTS.items():
        comment = script.source.split("\nlocal ")[0]
        assert all(f"-- {part}: " in comment for part in ("KEYS", "ARGV") if f"{part}[" in script.source), name
