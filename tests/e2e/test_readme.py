"""The commands of the README, run as they stand."""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path

from websockets.sync.client import connect

from deploy.local.processes import PROJECT_ROOT
from tests.support.client_package import ClientEnvironment
from tests.support.programs import require_program
from tests.support.stack import Stack
from tests.support.videos import SampleVideos
from tests.support.waiting import eventually

JSON = "json='content-type:"
README = (PROJECT_ROOT / "README.md").read_text("utf-8")


def code_block(language: str, containing: str) -> str:
    """The one fenced block of that language that contains a text."""
    blocks: list[str] = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = (text for text in blocks if containing in text)
    return found


def typed_commands() -> list[str]:
    """The indented lines under "Use", in order."""
    chapter = README.partition("## Use")[2].partition("###")[0]
    return re.findall(r"^    (.+)$", chapter, re.MULTILINE)


def test_commands_of_the_usage_section_work(stack: Stack, sample_videos: SampleVideos, tmp_path: Path) -> None:
    """Every line in order in one shell; only the port, the sid and the paths of programs differ."""
    require_program("curl", "curl")
    listen, *typed = typed_commands()
    assert [line.split()[0] for line in typed] == ["ffmpeg", "curl", "curl", "curl", "ffmpeg", JSON, "curl", "curl"]
    program, *arguments = shlex.split(
        listen.replace("http://127.0.0.1:8000", stack.url).replace(":8000", f":{stack.port}")
    )
    assert program == ".venv/bin/python"
    heard = tmp_path / "heard"
    with heard.open("wb") as output:
        listener = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            env={**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": "1"},
        )

    def was_printed(text: str) -> bool:
        return text in heard.read_text("utf-8")

    try:
        told = r'"sid": *"([a-z2-7]+)"'
        sid = eventually(
            lambda: re.search(told, heard.read_text("utf-8"), re.IGNORECASE), 20, "the listener has its sid"
        )[1]
        script = "\n".join(typed).replace("http://127.0.0.1:8000", stack.url).replace("/SID/", f"/{sid}/")
        script = script.replace("ffmpeg ", f"{shlex.quote(sample_videos.ffmpeg)} -nostdin -v error ")
        script = re.sub(r"\bcurl ", "curl -sSf ", script)
        done = subprocess.run(
            ["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert '"content_type":"video/webm"' in done.stdout.replace(" ", "")
        assert (tmp_path / "part").read_bytes() == (tmp_path / "v.webm").read_bytes()[1000:2000]
        assert (tmp_path / "frame.png").read_bytes().startswith(b"\x89PNG")
        for said in ("file.created", '"hello"', '"hello you"'):
            eventually(partial(was_printed, said), 10, f"the listener has printed {said}")
    finally:
        assert listener.stdin is not None
        listener.stdin.close()
        listener.terminate()
        listener.wait(10)


def test_a_separate_process_pushes(stack: Stack, client_environment: ClientEnvironment, tmp_path: Path) -> None:
    """The snippet with nothing installed but the wheel: a push to all reaches both replicas, one to a sid that client alone."""
    script = tmp_path / "billing.py"
    script.write_text(code_block("python", "Publisher.from_url"), "utf-8")
    addresses = [stack.urls[name].replace("http", "ws", 1) + "/ws" for name in ("socket-1", "socket-2")]
    with connect(addresses[0]) as one, connect(addresses[1]) as other:
        sid = json.loads(one.recv(5))["sid"]
        other.recv(5)
        run = client_environment.run(str(script), stack.urls["redis-server"], sid, folder=tmp_path)
        assert run.returncode == 0, run.stderr
        assert "sent" in run.stdout
        assert [json.loads(one.recv(5))["type"] for _ in range(2)] == ["invoice.paid", "invoice.yours"]
        assert json.loads(other.recv(5))["type"] == "invoice.paid"


def test_commands_and_paths_named_in_the_readme_exist() -> None:
    verbs = set(re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE))
    makefile = (PROJECT_ROOT / "Makefile").read_text("utf-8")
    assert verbs
    assert all(re.search(rf"^{verb}:", makefile, re.MULTILINE) for verb in verbs)
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (PROJECT_ROOT / link).exists(), link
