"""The rules of the house, and that the tools which hold them really do."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.containers import credentials, mongodb_setup
from gateway import routes
from gridcast._flows import single_requests, tus_transfer
from services.common.http import tus
from services.socket import accept, api

ROOT = Path(__file__).parents[2]
LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")
PRODUCT_DIRS = ("services", "gateway", "deploy", "clients")
OLD_NAME_EXEMPTIONS = {
    "CHANGELOG.md",
    "docs/adr/0016-one-language.md",
    "services/common/variables.py",  # gives the new name of a renamed variable
    "tests/integration/test_legacy_data.py",  # starts the services of an old commit
    "tests/support/legacy_data.py",
    "tests/unit/banned_names.txt",
    "tests/unit/common/test_variables.py",
    "tests/unit/test_conventions.py",
}
"""Files that quote names from before ADR 16 on purpose."""

# Phrases from before ADR 16: each says in private words what the field has a term for, or hides who does what.
BANNED_PHRASES = (
    r"whoever",
    r"nobody",
    r"somebody",
    r"anybody",
    r"everybody",
    r"knows? (?:no|not|neither|nothing|none|only)",  # an import contract says it
    r"stands? in for",
    r"stands? (?:between|behind|before|here|there)",
    r"stands? in",
    r"taken over",
    r"takes? over from",
    r"takes nothing",
    r"believe[sd]?",
    r"at the longest",
    r"so many",
    r"(?:is|are|was|were|be) told",
    r"say(?:s|ing)? goodbye",
    r"left alone",
    r"put aside",
    r"(?:at )?the door",
    r"front door",
    r"one of ours",
    r"a question of (?:our|its) own",
    r"better than a refusal",
    r"is for the (?:commit|caller) to say",
    r"who is new",
    r"of no use",
    r"how long one may",
    r"what waits for it",
    r"in which an? (?:client|service) takes",
    r"answers that no",
    r"lives? on",
    r"janitor",
    r"litter",
    r"leash",
    r"last ?words",
    r"obituary",
    r"patience",
    r"trials",
    r"strays?",
    r"swept",
    r"sweep(?:s|er)?",
    r"goes the way of",
    r"the world of",
)


def tracked_files() -> list[Path]:
    """What is in the repository, or would be."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(LINT_IMPORTS), f"--cache-dir={folder.with_name('imports')}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": f"{folder}{os.pathsep}{folder / 'clients/python/src'}"},
    )


@pytest.fixture(scope="module")
def copied_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, in which no contract is broken."""
    folder = tmp_path_factory.mktemp("code")
    for part in ("services", "gateway", "deploy", "clients/python/src", "pyproject.toml"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / part)
    run = lint_imports(folder)
    assert run.returncode == 0, run.stdout
    return folder


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("services/upload/app.py", "import services.stream.app"),
        ("services/common/errors.py", "import services.upload.endpoints.put"),
        ("gateway/routes.py", "import services.socket.hub"),
        ("services/stream/api.py", "import motor.motor_asyncio"),
        ("services/common/uploads/outbox.py", "import redis"),
        ("services/stream/ranges.py", "import asyncio"),
        ("services/upload/endpoints/put.py", "import gateway.routes"),
        ("services/socket/app.py", "import deploy.local.ports"),
        ("services/socket/hub.py", "import services.common.telemetry.metrics"),
        ("services/socket/sessions.py", "import services.socket.connection"),
        ("gateway/settings.py", "import deploy.containers.healthcheck"),
        ("services/common/errors.py", "import gateway.upstream.response_parser"),
        ("gateway/upstream/connection_pool.py", "import httpx"),
        ("gateway/upstream/connect.py", "import gateway.proxy.headers"),
        ("gateway/limiters.py", "import services.common.aio.singleflight"),
        ("services/common/http/encoding.py", "import asyncio"),
        ("services/common/http/encoding.py", "import services.common.server.transport"),
        ("services/common/containers/mp4.py", "import services.common.media"),
        ("services/common/server/connection.py", "import uvicorn"),
        ("services/upload/writer/upload_writer.py", "import aiohttp"),
        ("services/common/bus/redis.py", "import redis"),
        ("clients/python/src/gridcast/publish.py", "import services.common.errors"),
        ("clients/python/src/gridcast/publish.py", "import redis"),
        ("clients/python/src/gridcast/_bus/events.py", "import time"),
        ("clients/python/src/gridcast/_flows/uploads.py", "import pathlib"),
        ("clients/python/src/gridcast/_flows/uploads.py", "import gridcast._local.sources"),
        ("clients/python/src/gridcast/_sync_shell.py", "import httpx"),
        ("clients/python/src/gridcast/_listener.py", "import websockets"),
        ("clients/python/src/gridcast/_operations.py", "import click"),
        ("clients/python/src/gridcast/cli/output.py", "import rich"),
        ("gateway/app.py", "import gridcast.publish"),
        ("services/common/auth/authenticator.py", "import jwt"),
        ("services/common/auth/route_rules.py", "import services.common.settings"),
        ("services/stream/app.py", "import services.common.auth.jwks_cache"),
    ],
)
def test_a_broken_import_contract_fails_the_lint(copied_code: Path, where: str, line: str) -> None:
    """Each on a copy of the code into which that one line was put."""
    path = copied_code / where
    text = path.read_text("utf-8")
    path.write_text(f"{text}\n{line}\n", "utf-8")
    run = lint_imports(copied_code)
    path.write_text(text, "utf-8")
    assert run.returncode != 0
    assert "BROKEN" in run.stdout


def test_no_address_of_a_registry_and_no_path_of_a_machine() -> None:
    forbidden = re.compile(
        r"https?://[^\s\"']*/(?:simple|packages)/|--(?:extra-)?index-url|\"resolved\": *\"http|/(?:home|root|work)/[a-z]"
    )
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_files()
        if path != Path(__file__) and path.suffix not in {".png", ".ico", ".woff2"}
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        if forbidden.search(line)
    ]
    assert found == []


def test_rooms_are_small_and_say_what_they_are_for() -> None:
    for path in tracked_files():
        inside = path.relative_to(ROOT)
        if path.suffix == ".py" and inside.parts[0] in {"services", "gateway", "deploy", "clients"}:
            text = path.read_text("utf-8")
            assert text.startswith(('"""', 'r"""', "#!")), f"{inside} has no docstring"
            assert text.count("\n") <= 400, f"{inside} is a room too large"
            assert inside.stem not in {"utils", "helpers", "manager", "base"}, inside


def product_sources() -> list[Path]:
    """The Python files of product code."""
    return [path for path in tracked_files() if path.suffix == ".py" and relative(path).split("/")[0] in PRODUCT_DIRS]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read_banned_names() -> dict[str, list[str]]:
    """The lines of banned_names.txt by the heading above them."""
    sections: dict[str, list[str]] = {}
    for line in (ROOT / "tests/unit/banned_names.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            section.append(line)
    return sections


BANNED_NAMES = read_banned_names()


def assigned_names(node: ast.stmt) -> Iterator[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def defined_names(source: str) -> set[str]:
    """Qualified names that a module defines: functions, classes, constants; methods, fields and attributes of its classes."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        names.update(assigned_names(node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            members = {name for statement in node.body for name in assigned_names(statement)}
            members |= {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
            members |= {
                item.attr
                for item in ast.walk(node)
                if isinstance(item, ast.Attribute)
                and isinstance(item.ctx, ast.Store)
                and isinstance(item.value, ast.Name)
                and item.value.id == "self"
            }
            names |= {f"{node.name}.{member}" for member in members}
    return names


def find_words(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    """Each match as `file:line: text`."""
    return [
        f"{relative(path)}:{number}: {match[0]}"
        for path in paths
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1)
        for match in pattern.finditer(line)
    ]


def test_old_definitions_are_gone() -> None:
    """Methods and attributes count as well. Each line of the list names the file where the thing lives now."""
    cache: dict[str, set[str]] = {}
    found = []
    for line in BANNED_NAMES["definitions"]:
        name, definition = line.split()
        if (ROOT / name).is_file():
            if name not in cache:
                cache[name] = defined_names((ROOT / name).read_text("utf-8"))
            if definition in cache[name]:
                found.append(line)
    assert found == []


def test_old_modules_are_gone() -> None:
    """Neither the file, nor its path in a document, nor an import of it. A package may have the name that a module had."""
    assert [name for name in BANNED_NAMES["modules"] if (ROOT / name).exists()] == []
    texts = [
        path
        for path in tracked_files()
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml"} and relative(path) not in OLD_NAME_EXEMPTIONS
    ]
    dotted = [
        name.removesuffix(".py").replace("/", ".")
        for name in BANNED_NAMES["modules"]
        if not (ROOT / name.removesuffix(".py")).is_dir()
    ]
    pattern = re.compile(
        r"(?<![\w/.])(?:" + "|".join(re.escape(name) for name in [*BANNED_NAMES["modules"], *dotted]) + r")(?![\w/])"
    )
    found = find_words(pattern, texts)
    assert not found, "\n".join(found)


def test_old_class_names_are_gone() -> None:
    banned = set(BANNED_NAMES["classes"])
    found = [
        f"{relative(path)}: class {node.name}"
        for path in product_sources()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name in banned
    ]
    assert found == []


@pytest.mark.parametrize("kind", ["settings", "metrics"])
def test_old_settings_and_metrics_are_gone(kind: str) -> None:
    pattern = re.compile(r"\b(?:" + "|".join(BANNED_NAMES[kind]) + r")(?:_(?:FILE|bucket|sum|count))?\b")
    found = find_words(pattern, [path for path in tracked_files() if relative(path) not in OLD_NAME_EXEMPTIONS])
    assert not found, "\n".join(found)


def test_old_labels_are_gone() -> None:
    tree = ast.parse((ROOT / "services/common/telemetry/metrics.py").read_text("utf-8"))
    labels = {
        f"{call.args[0].value!s} {label.value!s}"
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and len(call.args) > 2 and isinstance(call.args[0], ast.Constant)
        for label in (call.args[2].elts if isinstance(call.args[2], ast.List) else [])
        if isinstance(label, ast.Constant)
    }
    assert labels, "the metrics are declared in another way"
    assert sorted(labels & set(BANNED_NAMES["labels"])) == []


def test_old_log_fields_are_gone() -> None:
    found = []
    for line in BANNED_NAMES["log fields"]:
        name, field = line.split()
        assert (ROOT / name).is_file(), f"{name} has moved: correct banned_names.txt"
        if re.search(rf'"{field}"(?::|\] *=)', (ROOT / name).read_text("utf-8")):
            found.append(line)
    assert found == []


def test_sentences_are_plain_english() -> None:
    """Product code, documents and configuration; not tests."""
    pattern = re.compile(rf"\b(?:{'|'.join(BANNED_PHRASES)})\b".replace(" ", r"\s+"), re.IGNORECASE)
    skipped = ("tests/", "requirements/", "clients/js/", "clients/angular")
    paths = [
        path
        for path in tracked_files()
        if path.suffix not in {".png", ".ico", ".woff2", ".json", ".lock"}
        and relative(path) not in OLD_NAME_EXEMPTIONS
        and not relative(path).startswith(skipped)
    ]
    found = find_words(pattern, paths)
    assert not found, f"{len(found)} places\n" + "\n".join(found)


SAME_MEANING = {
    "VAULT": "the folder of the secrets in two programs that are copied into images one by one",
    "Client": "the public name of the client; the address of one in the gateway",
    "FileInfo": "the client imports nothing of the services",
    "MAX_ACK_WAIT_SECONDS": "the client imports nothing of the services",
    "TUS_CONTENT_TYPE": "the client imports nothing of the services",
    "WEBSOCKET_PATHS": "the gateway and the socket service import nothing of each other",
}


def test_constants_that_stand_twice_are_equal() -> None:
    assert routes.WEBSOCKET_PATHS == accept.WEBSOCKET_PATHS
    assert single_requests.MAX_ACK_WAIT_SECONDS == api.MAX_ACK_WAIT_SECONDS
    assert tus_transfer.TUS_CONTENT_TYPE == tus.TUS_CONTENT_TYPE
    assert credentials.VAULT == mongodb_setup.VAULT


def test_classes_and_constants_are_defined_once() -> None:
    """A class or an ALL_CAPS constant of product code has one file. Type variables of one letter may repeat."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in product_sources():
        for node in ast.parse(path.read_text("utf-8")).body:
            names = [node.name] if isinstance(node, ast.ClassDef) else [n for n in assigned_names(node) if n.isupper()]
            for name in names:
                places[name].add(relative(path))
    repeated = {
        name: sorted(files)
        for name, files in places.items()
        if len(files) > 1 and len(name) > 1 and name not in SAME_MEANING
    }
    assert repeated == {}
