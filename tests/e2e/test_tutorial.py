"""The commands of the tutorial, run in order, and their output compared with what it shows."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from deploy.local.ports import HOST, free_ports
from deploy.local.processes import PROJECT_ROOT
from tests.support.programs import require_program
from tests.support.raw_sockets import accepts_connections
from tests.support.stack import Stack
from tests.support.waiting import eventually

DOCS = PROJECT_ROOT / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text("utf-8")
STOP_LISTENER_TEXT = "Stop the listener with Ctrl-C"
TUTORIAL_STEP = re.compile(
    rf"^```(?P<kind>python|console)\n(?P<block>.*?)^```$|`(?P<inline>(?:curl|\.venv/bin/python) [^`]+)`|{STOP_LISTENER_TEXT}",
    re.DOTALL | re.MULTILINE,
)
# A pytest that runs in the background of a script may ignore Ctrl-C, and what it starts inherits that.
INTERRUPT_SIGNAL = signal.SIGTERM if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIGINT


def output_pattern(shown: str) -> re.Pattern[str]:
    """A pattern for the output in the tutorial, where `...` is anything."""
    return re.compile(".*?".join(re.escape(part) for part in shown.strip().split("...")), re.DOTALL)


def split_steps(block: str) -> list[tuple[str, str]]:
    """Commands with the output shown below them; output before the first one has an empty command."""
    before, *typed = re.split(r"^\$ ", block, flags=re.MULTILINE)
    first = [("", before)] if before else []
    return first + [(command, shown) for command, _, shown in (text.partition("\n") for text in typed)]


class TutorialReader:
    """The terminals of a reader, in a folder of their own: one for commands, and others for programs that keep running."""

    def __init__(self, stack: Stack, ffmpeg: str, folder: Path) -> None:
        self._stack = stack
        self._ffmpeg = ffmpeg
        self._folder = folder
        self._service = free_ports(1)[0]
        self._running: list[subprocess.Popen[bytes]] = []
        self._expected_lines: list[str] = []
        self._listener_outputs: list[Path] = []
        self._env = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "PYTHONUNBUFFERED": "1"}
        (folder / ".state").touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    @property
    def listener_output(self) -> str:
        """The output of the listener that was started last."""
        return self._listener_outputs[-1].read_text("utf-8")

    def save_program(self, program: str) -> None:
        """Write a block to the file that its first line names."""
        name = program.partition("\n")[0].removeprefix("# ")
        (self._folder / name).write_text(program, "utf-8")

    def run_command(self, command: str, expected: str) -> None:
        """Run one line and compare its output."""
        if command.startswith("make run"):
            self._compare(self._localize(expected).splitlines(), self._stack.stdout)
        elif not command:
            self._expected_lines += expected.splitlines()
        elif "listen.py" in command:
            self._listen(self._localize(command))
            self._expected_lines += expected.splitlines()
        elif command.endswith(" &"):
            self._start(self._localize(command).removesuffix(" &"))
        else:
            said = self._run(self._localize(command))
            assert output_pattern(expected).fullmatch(said.strip()), f"{command}\nsays\n{said}\nand not\n{expected}"

    def wait_for_listener(self) -> None:
        """Wait until the listener has printed what the tutorial shows."""
        awaited, self._expected_lines = self._expected_lines, []
        if awaited:
            eventually(lambda: self._compare(awaited, self.listener_output), 20, "the listener says what is shown")

    def stop_listening(self) -> None:
        sid = self._sid()
        listener = self._running.pop(0)
        listener.send_signal(INTERRUPT_SIGNAL)
        listener.wait(10)
        ask = f"curl -s {self._stack.url}/sockets/{sid}"
        eventually(lambda: '"away"' in self._run(ask), 10, "the sid is away")

    def _localize(self, text: str) -> str:
        """The text with what differs here: ports, programs, and values that a reader copies."""
        text = text.replace(f"{HOST}:8000", f"{HOST}:{self._stack.port}").replace("8100", str(self._service))
        text = text.replace(".venv/bin/python", shlex.quote(sys.executable))
        text = re.sub(r"^ffmpeg", f"{shlex.quote(self._ffmpeg)} -nostdin", text)
        if text.startswith("sid="):
            return f"sid={self._sid()}"
        if text.startswith("redis="):
            address = self._stack.urls["redis-server"]
            assert output_pattern(text).fullmatch(f"redis={address}")
            return f"redis={address}"
        return text

    def _sid(self) -> str:
        found: str = json.loads(self.listener_output.partition("\n")[0])["sid"]
        return found

    def _run(self, command: str) -> str:
        """Run in a shell that has the variables of the commands before."""
        script = f". ./.state\nset -a\n{command}\nexport -p > .state"
        done = subprocess.run(
            ["sh", "-euc", script],
            cwd=self._folder,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def _start(self, command: str) -> None:
        """Start the reader's own service and wait until it listens."""
        script = f". ./.state\nexport {command.replace(' ', '; exec ', 1)}"
        self._running.append(subprocess.Popen(["sh", "-euc", script], cwd=self._folder, env=self._env))
        eventually(lambda: accepts_connections(self._service), 20, command)

    def _listen(self, command: str) -> None:
        self._listener_outputs.append(self._folder / f"heard-{len(self._listener_outputs)}")
        with self._listener_outputs[-1].open("wb") as output:
            process = subprocess.Popen(shlex.split(command), cwd=self._folder, env=self._env, stdout=output)
        self._running.insert(0, process)
        eventually(lambda: '"sid"' in self.listener_output, 20, "the listener has its sid")

    def _compare(self, expected: list[str], actual: str) -> bool:
        lines = actual.splitlines()
        for line in expected:
            assert any(output_pattern(line).fullmatch(one) for one in lines), f"{line}\nis not in\n{actual}"
        return True


def test_tutorial_session_works_as_written(stack: Stack, ffmpeg: str, tmp_path: Path) -> None:
    """Every block in order. The stack has the two socket replicas of the last step all the time."""
    pytest.importorskip("tusclient", reason="tuspy is not installed")
    require_program("curl", "curl")
    with TutorialReader(stack, ffmpeg, tmp_path) as desk:
        for piece in TUTORIAL_STEP.finditer(TUTORIAL):
            if piece["kind"] == "python":
                desk.save_program(piece["block"])
            elif piece["kind"] == "console":
                typed = split_steps(piece["block"])
                for command, shown in typed:
                    desk.run_command(command, shown)
                # A listener that was just started prints the rest once the next block is run.
                if not typed[0][0] or "listen.py" not in typed[0][0]:
                    desk.wait_for_listener()
            elif piece["inline"]:
                desk.run_command(piece["inline"], "...")
            else:
                desk.stop_listening()
        desk.wait_for_listener()
        assert "read the state again" not in desk.listener_output, "the client that came back has missed nothing"
    assert (tmp_path / "part").read_bytes() == (tmp_path / "v.webm").read_bytes()[1000:2000]


def test_commands_and_anchors_named_in_the_tutorial_exist() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text("utf-8")
    commands = re.findall(r"(?:`|^\$ )make ([^`\n]+)", TUTORIAL, re.MULTILINE)
    assert "run SOCKETS=2 STREAMS=2" in commands
    for verb, *options in (command.split() for command in commands):
        assert re.search(rf"^{verb}:", makefile, re.MULTILINE)
        assert all(f"$({option.partition('=')[0]})" in makefile for option in options)
    for path, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", TUTORIAL):
        place = DOCS / path if path else DOCS / "tutorial.md"
        assert place.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text("utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
