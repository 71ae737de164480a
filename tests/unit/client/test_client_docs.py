"""docs/cli.md and docs/python.md: their references are those of the code, and their Python blocks pass mypy.

`python -m tests.unit.client.test_client_docs` writes the references.
"""

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import gridcast
from deploy.local.processes import PROJECT_ROOT
from gridcast import errors, values, webhooks
from gridcast.cli.app import COMMANDS, cli
from gridcast.cli.exit_codes import ExitCode

CLI_PAGE = PROJECT_ROOT / "docs/cli.md"
PYTHON_PAGE = PROJECT_ROOT / "docs/python.md"
REFERENCE = re.compile(r"(<!-- reference: .*? -->\n)(.*?)(<!-- end of reference -->\n)", re.DOTALL)
WIDTH = 100
VALUES = (
    values.FileInfo,
    values.TransferProgress,
    values.PushReceipt,
    values.ReceivedEvent,
    values.EventGap,
    values.SignedLink,
    values.RevocationReceipt,
    values.EndpointInfo,
    values.DeliveryInfo,
    values.NewLive,
    values.LiveInfo,
    values.LiveMessage,
    webhooks.WebhookEvent,
)
DOCUMENTED = (gridcast.Client, gridcast.AsyncClient, gridcast.Listener, gridcast.RemoteFile, gridcast.AsyncRemoteFile)


def command_reference() -> str:
    """The help of every command."""
    context = click.Context(cli, info_name="gridcast")
    parts: list[str] = []
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        parts.extend(_helps(command, name, context))
    return "\n" + "\n".join(parts) + "\n"


def _helps(command: click.Command, name: str, parent: click.Context) -> Iterator[str]:
    """The help of a command, and of those below it."""
    with click.Context(command, parent=parent, info_name=name, terminal_width=WIDTH) as own:
        title = own.command_path.removeprefix("gridcast ")
        yield f"### {title}\n\n```text\n{command.get_help(own).rstrip()}\n```\n"
        if isinstance(command, click.Group):
            for below, one in command.commands.items():
                yield from _helps(one, below, own)


def python_reference() -> str:
    """Signatures and docstrings of what is public."""
    return "\n" + "\n".join(_python_parts()) + "\n"


def _python_parts() -> Iterator[str]:
    for kind in DOCUMENTED:
        yield f"### {kind.__name__}\n"
        if kind is gridcast.AsyncClient:
            yield "As Client; its methods are awaited, `files` and `folders` are asynchronous iterators.\n"
            continue
        yield f"{_doc(kind)}\n"
        for name, member in vars(kind).items():
            function = member.fget if isinstance(member, property) else member
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            title = name if isinstance(member, property) else f"{name}{_signature(function)}"
            yield f"**`{title}`**\n\n{_doc(function)}\n"
    yield "### Values\n"
    for value in VALUES:
        fields = ", ".join(f"`{field.name}`" for field in dataclasses.fields(value))
        yield f"**`{value.__name__}`**: {fields}\n\n{_doc(value)}\n"
    yield f"### Webhooks\n\n**`webhooks.verify{_signature(webhooks.verify)}`**\n\n{_doc(webhooks.verify)}\n"
    yield "### Errors\n\nAll are in `gridcast.errors`.\n\n| error | meaning |\n|---|---|"
    for name, kind in vars(errors).items():
        if inspect.isclass(kind) and issubclass(kind, errors.RequestError):
            first = " ".join(_doc(kind).split("\n\n")[0].split())
            yield f"| `{name}` | {first} |"


def _doc(thing: object) -> str:
    return inspect.getdoc(thing) or ""


def _signature(function: object) -> str:
    text = str(inspect.signature(function, eval_str=False))  # type: ignore[arg-type]
    for module in (
        "gridcast.values.",
        "gridcast._operations.",
        "collections.abc.",
        "typing.",
        "gridcast._remote_file.",
    ):
        text = text.replace(module, "")
    return re.sub(r"\(self(?:, )?", "(", text).replace("'", "")


def with_references() -> dict[Path, str]:
    """The text that each page has if it is up to date."""
    return {
        page: REFERENCE.sub(lambda match, text=text: match[1] + text + match[3], page.read_text("utf-8"))  # type: ignore[misc]
        for page, text in ((CLI_PAGE, command_reference()), (PYTHON_PAGE, python_reference()))
    }


@pytest.mark.parametrize("page", [CLI_PAGE, PYTHON_PAGE], ids=lambda page: page.name)
def test_the_reference_is_that_of_the_code(page: Path) -> None:
    text = page.read_text("utf-8")
    assert len(REFERENCE.findall(text)) == 1
    assert text == with_references()[page], "run python -m tests.unit.client.test_client_docs"


def test_python_blocks_pass_the_type_checker(tmp_path: Path) -> None:
    """Each block is a program of its own."""
    pages = [PYTHON_PAGE, PROJECT_ROOT / "README.md", PROJECT_ROOT / "clients/python/README.md"]
    blocks = [
        block
        for page in pages
        for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
        if "await " not in block or "async def" in block
    ]
    assert len(blocks) >= 8
    for number, block in enumerate(blocks):
        (tmp_path / f"block_{number}.py").write_text(block, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--allow-untyped-defs", "--scripts-are-modules", str(tmp_path)],
        cwd=tmp_path,
        env={"PATH": "", "MYPYPATH": str(PROJECT_ROOT / "clients/python/src")},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_exit_code_is_documented() -> None:
    text = CLI_PAGE.read_text("utf-8")
    for code in ExitCode:
        assert f"| {code.value} |" in text, code


def test_variables_are_those_that_the_command_reads() -> None:
    source = "".join(path.read_text("utf-8") for path in (PROJECT_ROOT / "clients/python/src/gridcast").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get)?[(\[]"(GRIDCAST_\w+|XDG_\w+)"', source))
    table = re.findall(r"^\| (`(?:GRIDCAST|XDG)_.*?) \|", CLI_PAGE.read_text("utf-8"), re.MULTILINE)
    documented = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert read == documented


if __name__ == "__main__":
    for path, text in with_references().items():
        path.write_text(text, "utf-8")
