"""docs/auth.md: an instance is open on loopback without settings, and closed by the two that the page begins with."""

import asyncio
import json
import os
import re
from pathlib import Path

import httpx
import pytest

from deploy.local.processes import PROJECT_ROOT
from services.common.auth.rights import VERBS
from services.common.variables import VARIABLES
from tests.support.processes import run_module
from tests.support.stack import Stack, run_forked_stack
from tests.support.tokens import SECRET
from tests.support.websocket_client import WebSocketClient

FILE = {"file": ("v.txt", b"0123456789")}
PAGE = (PROJECT_ROOT / "docs/auth.md").read_text("utf-8")


def settings_of_the_page() -> dict[str, str]:
    """The two settings, as the page exports them."""
    exported = dict(re.findall(r"^    export (GRIDCAST_[A-Z_]+)=(.+)$", PAGE, re.MULTILINE))
    assert exported == {"GRIDCAST_AUTH": "hs256", "GRIDCAST_AUTH_SECRET": "$(openssl rand -hex 32)"}
    return {**exported, "GRIDCAST_AUTH_SECRET": SECRET}


def mint(settings: dict[str, str], *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")} | settings
    done = run_module("gateway.token", *arguments, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def use(stack: Stack, headers: dict[str, str]) -> None:
    """The flow of the tutorial: listen, upload, read a part, push, delete."""
    client = await WebSocketClient.connect(stack, headers=headers, topics="demo")
    async with httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=30) as http:
        form = await http.post(
            "/file/upload?folder=demo",
            data={"folder": "demo", "sid": client.sid},
            files={"file": ("v.txt", b"0123456789")},
        )
        assert form.status_code == 201, form.text
        assert (await client.receive_event("file.created"))["data"]["folder"] == "demo"
        part = await http.get("/files/demo/v.txt", headers={"range": "bytes=2-4"})
        assert (part.status_code, part.content) == (206, b"234")
        assert [file["filename"] for file in (await http.get("/file")).json()["files"]] == ["v.txt"]
        pushed = await http.post(f"/sockets/{client.sid}/messages", json={"type": "news", "data": {}})
        assert pushed.status_code == 200
        assert (await client.receive_event("news"))["data"] == {}
        assert (await http.delete("/files/demo/v.txt")).status_code == 204
    client.abort()


def test_open_on_loopback_and_closed_by_two_settings(tmp_path: Path) -> None:
    with run_forked_stack(tmp_path / "open") as stack:
        asyncio.run(use(stack, {}))
    settings = settings_of_the_page()
    with run_forked_stack(tmp_path / "closed", env=settings) as stack:
        refused = httpx.get(f"{stack.url}/file")
        assert refused.status_code == 401
        assert refused.headers["www-authenticate"] == 'Bearer realm="gridcast"'
        assert httpx.get(stack.url).status_code == 200
        token = mint(settings, "alice", "read:demo/* write:demo/* delete:demo/* listen")
        asyncio.run(use(stack, {"authorization": f"Bearer {token}"}))
        logs = "".join(path.read_text("utf-8") for path in stack.log_dir.glob("*.log"))
        assert json.dumps("/file")[1:-1] in logs
        assert token.rpartition(".")[2] not in logs
        assert SECRET not in logs + stack.stdout + stack.stderr


def test_an_instance_that_others_reach_does_not_start_open(tmp_path: Path) -> None:
    with run_forked_stack(tmp_path / "data", env={"GRIDCAST_PUBLIC_ADDRESS": "0.0.0.0"}, up=False) as stack:
        assert stack.process.wait(120) == 1
    logs = [path.read_text("utf-8") for path in (tmp_path / "data/logs").glob("*-1.log")]
    # The run ends with the first of them; another one may not have come to write its sentence.
    assert any("set GRIDCAST_AUTH=hs256 and GRIDCAST_AUTH_SECRET" in text for text in logs)


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_is_explained(verb: str) -> None:
    assert re.search(rf"^\| .*`{verb}`.* \|", PAGE, re.MULTILINE)


def test_named_settings_exist() -> None:
    assert set(re.findall(r"GRIDCAST_[A-Z_]*[A-Z]", PAGE)) - VARIABLES == set()
