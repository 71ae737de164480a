"""The wheel of clients/python in an empty environment: what it contains, and what can be imported from it."""

import ast
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.e2e.test_interpreters import INTERPRETERS, VERSIONS
from tests.support.client_package import ClientEnvironment, install_wheel
from tests.support.npm import NpmPackages

ROOT = Path(__file__).parents[2]
INSPECT_SCRIPT = """
import importlib.metadata, importlib.util, json, pkgutil
import gridcast, gridcast.publish
for name in gridcast.__all__: getattr(gridcast, name)
print(json.dumps({
    "distributions": sorted({found.name for found in importlib.metadata.distributions()} - {"async-timeout"}),
    "modules": ["gridcast", *(found.name for found in pkgutil.iter_modules(gridcast.__path__, "gridcast."))],
    "names": sorted(set(gridcast.publish.__all__)),
    "top": sorted(gridcast.__all__),
    "foreign": [name for name in ("services", "gateway", "deploy", "tests") if importlib.util.find_spec(name)],
}))
"""
LAZY_SCRIPT = """
import sys
import gridcast.cli.app
loaded = {"asyncio", "httpx", "websockets", "rich", "gridcast._client"} & set(sys.modules)
assert not loaded, loaded
"""
USER_PROGRAM = """
import asyncio
import io
import shutil
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import gridcast
from gridcast import AsyncClient, Client, EventGap, FileInfo, PushReceipt, ReceivedEvent, TransferProgress
from gridcast.errors import NameConflict, RequestError


def show(progress: TransferProgress) -> None:
    print(progress.state, progress.durable, progress.total)


def lines() -> Iterator[bytes]:
    yield b"one"


async def later() -> AsyncIterator[bytes]:
    yield b"one"


def blocking() -> None:
    with Client("http://127.0.0.1:8000", lambda: "token", timeout=5) as client:
        info: FileInfo = client.upload(Path("a"), "demo/a", metadata={"title": "x"}, state="a.state", progress=show)
        client.upload(lines(), "demo/b", content_type="text/plain")
        with open("a", "rb") as file:
            client.upload(file, "demo/c", replace=True)
        client.download("demo/a", "a")
        client.download("demo/a", io.BytesIO())
        with client.open("demo/a.zip") as remote, zipfile.ZipFile(io.BufferedReader(remote)) as archive:
            names: list[str] = archive.namelist()
        with client.open("demo/a") as remote, open("copy", "wb") as copy:
            shutil.copyfileobj(remote, copy)
        paths: list[str] = [one.path for one in client.files("demo")]
        try:
            client.remove(info.path, etag=info.etag)
        except NameConflict as error:
            detail: str = error.detail
            status: int | None = error.status
            print(detail, status)
        with client.listen("news") as events:
            for item in events:
                match item:
                    case EventGap():
                        print(item.reason)
                    case ReceivedEvent():
                        print(item.type, item.data)
                        events.ack(item)
        receipt: PushReceipt = client.send("sid", "hello", {"n": 1}, wait=2)
        print(receipt.status, paths, names)


async def token() -> str:
    return "token"


async def asynchronous() -> None:
    async with AsyncClient("http://127.0.0.1:8000", token) as client:
        await client.upload(later(), "demo/a")
        async for one in client.files():
            print(one.length)
        async with client.listen() as events:
            async for item in events:
                print(item)
        async with await client.open("demo/a") as remote:
            data: bytes = await remote.read(5)
            print(data)


def main() -> None:
    try:
        blocking()
    except RequestError as error:
        print(error.request_id)
    asyncio.run(asynchronous())
"""
WRONG_LINES = """
client = gridcast.Client(8000)  # wrong
client.upload("a")  # wrong
client.nothing()  # wrong
size: str = client.info("a").length  # wrong
for event in client.listen(): print(event.data)  # wrong
gridcast.Nothing  # wrong
"""
HELP_SECONDS, IMPORT_SECONDS = 0.25, 0.15
WITHOUT_REDIS_SCRIPT = """
import sys
sys.modules["redis"] = None
import gridcast.errors
import gridcast.publish
"""


def test_the_wheel_contains_the_package_alone(client_environment: ClientEnvironment) -> None:
    with zipfile.ZipFile(client_environment.wheel) as wheel:
        names = wheel.namelist()
        (license_name,) = (name for name in names if name.endswith("/licenses/LICENSE"))
        assert wheel.read(license_name) == (ROOT / "LICENSE").read_bytes()
        (metadata_name,) = (name for name in names if name.endswith("/METADATA"))
        head = wheel.read(metadata_name).decode().partition("\n\n")[0].splitlines()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"gridcast"}
    assert {"gridcast/py.typed", "gridcast/_bus/lua/publish_event.lua"} <= set(names)
    assert [line for line in head if line.startswith(("Requires-Dist", "Provides-Extra"))] == [
        "Requires-Dist: httpx<1,>=0.28.1",
        "Requires-Dist: websockets<18,>=17.4",
        "Provides-Extra: cli",
        "Requires-Dist: click<9,>=8.5; extra == 'cli'",
        "Requires-Dist: rich>=15; extra == 'cli'",
        "Provides-Extra: redis",
        "Requires-Dist: redis<9,>=8.1; extra == 'redis'",
    ]
    assert client_environment.wheel.stat().st_size <= 100_000


def code_and_lines(text: str) -> tuple[str, list[tuple[str, int]]]:
    """What runs of a module, and where it begins: without the annotations of functions, docstrings and other lone strings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [one for one in body if not isinstance(one, ast.Expr) or not isinstance(one.value, ast.Constant)]
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return ast.dump(tree), [(type(node).__name__, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def test_modules_of_the_wheel_are_those_of_the_source(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    """Same code on the same lines; docstrings and types that a user sees are there, what only we read is not."""
    source = ROOT / "clients/python/src"
    with zipfile.ZipFile(client_environment.wheel) as wheel:
        packed = {name: wheel.read(name).decode() for name in wheel.namelist() if name.endswith(".py")}
    assert packed.keys() == {str(path.relative_to(source)) for path in source.rglob("*.py")}
    for name, text in packed.items():
        assert code_and_lines(text) == code_and_lines((source / name).read_text("utf-8")), name
    script = (
        "import gridcast, inspect\n"
        "shown = [gridcast.Client, gridcast.AsyncClient, gridcast.FileInfo, gridcast.RequestError]\n"
        "for kind in shown[:2]:\n"
        "    shown += [one for name, one in vars(kind).items() if name[0] != '_']\n"
        "assert len(shown) > 60 and all(inspect.getdoc(one) for one in shown)\n"
        "assert gridcast.AsyncClient.info.__annotations__['return'] is gridcast.FileInfo\n"
        "assert not gridcast._operations.Operations.__doc__"
    )
    done = client_environment.run("-c", script, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_only_public_names_can_be_imported(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    done = client_environment.run("-c", INSPECT_SCRIPT, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"gridcast", "httpx", "redis", "websockets"} <= set(found["distributions"])
    assert not {"click", "rich", "pydantic", "requests", "aiohttp"} & set(found["distributions"])
    assert found["foreign"] == []
    public = {name for name in found["modules"] if "._" not in name}
    assert public == {
        "gridcast",
        "gridcast.cli",
        "gridcast.errors",
        "gridcast.publish",
        "gridcast.values",
        "gridcast.webhooks",
    }
    assert {"AsyncClient", "Client", "EventGap", "FileInfo", "RequestError"} <= set(found["top"])
    assert found["names"] == [
        "EventTooLarge",
        "InvalidEvent",
        "PublishError",
        "PublishResult",
        "PublishStatus",
        "Publisher",
        "RedisRefusesWrites",
        "RedisUnavailable",
        "SessionsNotReady",
    ]


def test_without_the_extra_the_error_names_it(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    done = client_environment.run("-c", WITHOUT_REDIS_SCRIPT, folder=tmp_path)
    assert done.returncode == 1
    assert 'ModuleNotFoundError: redis-py is not installed: pip install "gridcast[redis]"' in done.stderr


def test_without_its_extra_the_command_names_it(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    done = client_environment.run("-m", "gridcast.cli", "--help", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == 'the command line is not installed: pip install "gridcast[cli]"\n'


@pytest.mark.parametrize("version", VERSIONS)
def test_the_wheel_installs_alone_on_every_cpython(
    client_environment: ClientEnvironment, version: str, tmp_path: Path
) -> None:
    """On those that this machine has: the command starts, and what users import is there."""
    environment = install_wheel(client_environment.wheel, tmp_path / "made", "cli", str(INTERPRETERS[version]))
    done = environment.run("-m", "gridcast.cli", "--version", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    script = "import sys, gridcast\nfor name in gridcast.__all__: getattr(gridcast, name)\nprint(sys.version_info[:2])"
    done = environment.run("-W", "error", "-c", script, folder=tmp_path)
    major, _, minor = version.partition(".")
    assert done.stdout == f"({major}, {minor})\n", done.stderr


def best_seconds(command: list[str], folder: Path, limit: float) -> float:
    """The shortest of ten runs, or the first within the limit: the others compiled modules or waited for a core."""
    seconds: list[float] = []
    while len(seconds) < 10 and min(seconds, default=limit + 1) > limit:
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, env={"PATH": os.defpath}, check=True, capture_output=True, timeout=30)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def test_help_and_import_are_quick(command_line_environment: ClientEnvironment, tmp_path: Path) -> None:
    python = str(command_line_environment.python)
    command = str(command_line_environment.python.with_name("gridcast"))
    help_seconds = best_seconds([command, "--help"], tmp_path, HELP_SECONDS)
    import_seconds = best_seconds([python, "-c", "import gridcast"], tmp_path, IMPORT_SECONDS)
    print(f"gridcast --help {help_seconds:.3f} s, import gridcast {import_seconds:.3f} s")
    assert help_seconds <= HELP_SECONDS
    assert import_seconds <= IMPORT_SECONDS
    run = command_line_environment.run("-c", LAZY_SCRIPT, folder=tmp_path)
    assert run.returncode == 0, run.stderr


def test_pyright_accepts_a_users_program(
    npm: NpmPackages, client_environment: ClientEnvironment, tmp_path: Path
) -> None:
    """Strict, with the wheel's types alone; what is wrong is reported line by line."""
    folder = npm.require(tmp_path / "pyright", ["pyright"])
    (folder / "program.py").write_text(USER_PROGRAM + WRONG_LINES, "utf-8")
    settings = {"typeCheckingMode": "strict", "include": ["program.py"]}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), "utf-8")
    program = ["node", "node_modules/pyright/index.js", "--outputjson", "--pythonpath", str(client_environment.python)]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    found = [one for one in json.loads(done.stdout)["generalDiagnostics"] if one["severity"] == "error"]
    lines = (USER_PROGRAM + WRONG_LINES).splitlines()
    wrong = {number for number, line in enumerate(lines) if line.endswith("# wrong")}
    assert {one["range"]["start"]["line"] for one in found} == wrong, found


def test_a_users_program_is_checked_against_the_wheel(client_environment: ClientEnvironment, tmp_path: Path) -> None:
    """mypy, strict, with the wheel's types alone."""
    program = tmp_path / "program.py"
    program.write_text(USER_PROGRAM, "utf-8")
    for source, expected in ((USER_PROGRAM, 0), (USER_PROGRAM + WRONG_LINES, 1)):
        program.write_text(source, "utf-8")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                "--python-executable",
                str(client_environment.python),
                "program.py",
            ],
            cwd=tmp_path,
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == expected, done.stdout
    assert done.stdout.count("error:") == WRONG_LINES.count("# wrong"), done.stdout
