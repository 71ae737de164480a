"""Build hook of the wheel: leaves out of the modules what only readers of the source need.

That is comments, and in modules without public names docstrings and the annotations of functions: a user sees the docstrings of
public names and of commands, and a type checker the types of public modules. The rest is a fifth of the wheel. What is left out
becomes empty lines, so that tracebacks name the lines of the source.
"""

import ast
import io
import tempfile
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PUBLIC_MODULES = frozenset(
    {"__init__", "_async_client", "_client", "_listener", "_remote_file", "_tokens", "errors", "publish", "values"}
)
"""Where public names are defined: their docstrings and annotations stay."""

Position: TypeAlias = tuple[int, int]
"""Line from 1, column from 0: of ASCII text, where bytes and characters are the same."""


class CompactModules(BuildHookInterface[Any]):
    """Puts compacted copies of the modules into the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the copies; an editable installation runs the source itself."""
        if version == "editable":
            return
        source = Path(self.root) / "src"
        self._copies = tempfile.TemporaryDirectory()
        for path in sorted((source / "gridcast").rglob("*.py")):
            relative = path.relative_to(source)
            copy = Path(self._copies.name) / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(compact(path.read_text("utf-8"), relative), "utf-8")
            build_data["force_include"][str(copy)] = relative.as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the copies."""
        del build_data, artifact_path
        if version != "editable":
            self._copies.cleanup()


def compact(text: str, path: Path) -> str:
    """Return the text of a module without comments, invisible docstrings and annotations; lines and what runs are the same."""
    is_public = len(path.parts) == 2 and path.stem in PUBLIC_MODULES
    lines, tree = text.splitlines(), ast.parse(text)
    if not is_public:
        for start, end in sorted(_annotations(tree, lines), reverse=True):
            _cut(lines, start, end)
    for string, is_whole_body in _invisible_strings(tree, is_public=is_public):
        for number in range(string.lineno - 1, string.end_lineno or string.lineno):
            lines[number] = ""
        if is_whole_body:
            lines[string.lineno - 1] = f"{' ' * string.col_offset}..."
    for token in tokenize.generate_tokens(io.StringIO("\n".join(lines)).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
    return "\n".join(lines).rstrip() + "\n"


def _annotations(tree: ast.AST, lines: Sequence[str]) -> Iterator[tuple[Position, Position]]:
    """Yield where the annotations of functions begin and end, with the colon or the arrow before them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            yield (node.lineno, node.col_offset + len(node.arg)), _end(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            row = node.returns.lineno
            yield (row, lines[row - 1].rindex(" -> ", 0, node.returns.col_offset)), _end(node.returns)


def _end(node: ast.arg | ast.expr) -> Position:
    return node.end_lineno or node.lineno, node.end_col_offset or node.col_offset


def _cut(lines: list[str], start: Position, end: Position) -> None:
    """Empty the text from one position to another; the number of lines stays."""
    (first, column), (last, after) = start, end
    lines[last - 1] = lines[first - 1][:column] + lines[last - 1][after:]
    for number in range(first, last):
        lines[number - 1] = ""


def _invisible_strings(node: ast.AST, *, is_public: bool) -> Iterator[tuple[ast.Expr, bool]]:
    """Yield the strings that are statements and that no user sees, and whether each is all of its block."""
    body = getattr(node, "body", [])
    keeps_docstring = _is_visible(node, is_public=is_public)
    for number, child in enumerate(body if isinstance(body, list) else []):
        if isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant) and isinstance(child.value.value, str):
            if number or not keeps_docstring:
                yield child, len(body) == 1
        elif isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.If):
            yield from _invisible_strings(child, is_public=is_public)


def _is_visible(node: ast.AST, *, is_public: bool) -> bool:
    """Return whether the docstring of a module, class or function is read by users."""
    if isinstance(node, ast.FunctionDef) and any("click" in ast.unparse(one) for one in node.decorator_list):
        return True  # the help of a command
    name = getattr(node, "name", "")
    return is_public and (not name.startswith("_") or name == "__init__")
