"""What a power loss leaves of a folder, after any part of a recording of `write_recorder`.

The model is the least that POSIX promises: bytes and lengths are durable after fsync or fdatasync of their file, names after fsync
of their folder, and what a sync finds unfinished is not covered. Everything else may survive or not, each write by itself, the last
one perhaps in part.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TypeVar, Union

from tests.support.write_recorder import Call, Event

T = TypeVar("T")
SECTOR_BYTES = 512
_SYNCS = {"fsync", "fdatasync"}
_WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "ftruncate"}
_NAMES = {
    "openat",
    "open",
    "creat",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat",
    "renameat2",
}


@dataclass(slots=True, eq=False)
class Change:
    """One write or truncation of a file: `data` from `offset` on, or `offset` bytes as the new length where `data` is None."""

    offset: int
    data: bytes | None
    is_ended: bool = True


@dataclass(slots=True, eq=False)
class File:
    """A file: what is durable of it, and the changes since."""

    durable: bytes = b""
    pending: list[Change] = field(default_factory=list)

    def current(self) -> bytes:
        """What a process reads now."""
        return apply(self.durable, self.pending)


@dataclass(slots=True, eq=False)
class Folder:
    """A folder: the durable names, and the changes since. Each changes some names at once: None deletes one."""

    durable: dict[str, "Node"] = field(default_factory=dict)
    pending: list[dict[str, Union["Node", None]]] = field(default_factory=list)

    def current(self) -> dict[str, "Node"]:
        """The names that a process finds now."""
        names: dict[str, Node | None] = {**self.durable}
        for change in self.pending:
            names |= change
        return {name: node for name, node in names.items() if node is not None}


Node = File | Folder


def apply(data: bytes, changes: list[Change]) -> bytes:
    """The bytes after these changes."""
    if not changes:
        return data
    content = bytearray(data)
    for change in changes:
        if change.data is None:
            del content[change.offset :]
            content.extend(bytes(change.offset - len(content)))
        else:
            content.extend(bytes(max(0, change.offset - len(content))))
            content[change.offset : change.offset + len(change.data)] = change.data
    return bytes(content)


class RecordedDisk:
    """The folder `root` as the events that were given to `add` have left it. It is empty or missing at first."""

    def __init__(self, root: str) -> None:
        self._root = PurePosixPath(root)
        self.top = Folder()
        self.sync_count = 0
        self._writes: dict[int, tuple[File, Change]] = {}
        self._syncs: dict[int, tuple[Node, int]] = {}
        self._positions: dict[int, int] = {}

    def add(self, event: Event) -> bool:
        """Apply an event; return whether what is durable has changed."""
        call = event.call
        if call.name in _SYNCS:
            return self._sync(event)
        if call.name in _WRITES:
            self._write(event)
        elif call.name in _NAMES and event.ends and call.value >= 0:
            self._change_names(call)
        return False

    def _find(self, path: str) -> Node | None:
        """The node at an absolute path, None outside of the root."""
        parts = self._parts(path)
        node: Node | None = self.top if parts is not None else None
        for part in parts or ():
            node = node.current().get(part) if isinstance(node, Folder) else None
        return node

    def _parts(self, path: str) -> tuple[str, ...] | None:
        pure = PurePosixPath(path)
        return pure.relative_to(self._root).parts if path and pure.is_relative_to(self._root) else None

    def _sync(self, event: Event) -> bool:
        thread = event.thread
        if event.starts:
            node = self._find(event.call.path)
            if node is None:
                return False
            count = len(node.pending)
            if isinstance(node, File):  # those before the first that is not ended
                count = next((i for i, change in enumerate(node.pending) if not change.is_ended), count)
            self._syncs[thread] = (node, count)
        if not event.ends or (begun := self._syncs.pop(thread, None)) is None or event.call.value < 0:
            return False
        node, count = begun
        if isinstance(node, File):
            node.durable = apply(node.durable, node.pending[:count])
        else:
            merged = Folder(node.durable, node.pending[:count])
            node.durable = merged.current()
        del node.pending[:count]
        self.sync_count += 1
        return True

    def _write(self, event: Event) -> None:
        if event.starts:
            change = self._decode_write(event.call)
            node = self._find(event.call.descriptors[-1] if event.call.name == "copy_file_range" else event.call.path)
            if change is None or not isinstance(node, File):
                return
            change.is_ended = False
            node.pending.append(change)
            self._writes[event.thread] = (node, change)
        if not event.ends or (begun := self._writes.pop(event.thread, None)) is None:
            return
        node, change = begun
        change.is_ended = True
        if change.data is not None:
            change.data = change.data[: max(0, event.call.value)]
        elif event.call.value < 0:
            node.pending.remove(change)

    def _decode_write(self, call: Call) -> Change | None:
        if call.name == "ftruncate":
            return Change(call.numbers[0], None)
        if call.name == "copy_file_range":
            source = self._find(call.path)
            if not isinstance(source, File):
                return None
            start, offset = call.offsets
            return Change(offset, source.current()[start : start + call.numbers[0]])
        data = b"".join(call.strings)
        if call.name in {"write", "writev"}:
            number = call.number_of_descriptor
            offset = self._positions.get(number, 0)
            self._positions[number] = offset + len(data)
            return Change(offset, data)
        return Change(call.numbers[1], data)

    def _change_names(self, call: Call) -> None:
        if call.name in {"openat", "open", "creat"}:
            self._positions[call.value] = 0
            if self._parts(call.result_path):
                self._open(call)
        elif call.name in {"mkdir", "mkdirat"}:
            self._set_names({self._argument(call, 0): Folder()})
        elif call.name in {"unlink", "unlinkat", "rmdir"}:
            self._set_names({self._argument(call, 0): None})
        else:
            old, new = self._argument(call, 0), self._argument(call, 1)
            self._set_names({old: None, new: self._find(old)})

    def _argument(self, call: Call, number: int) -> str:
        """The path of a string among the arguments, relative to the descriptor before it."""
        path = call.strings[number].decode()
        folders = call.descriptors
        return str(PurePosixPath(folders[min(number, len(folders) - 1)], path)) if folders else path

    def _open(self, call: Call) -> None:
        node = self._find(call.result_path)
        if node is None:
            if "O_CREAT" in call.arguments:
                self._set_names({call.result_path: File()})
        elif isinstance(node, File) and "O_TRUNC" in call.arguments:
            node.pending.append(Change(0, None))

    def _set_names(self, names: dict[str, Node | None]) -> None:
        """Change names: those of one folder at once, as a file system with a journal does."""
        changes: dict[PurePosixPath, dict[str, Node | None]] = {}
        for path, node in names.items():
            if self._parts(path):
                pure = PurePosixPath(path)
                changes.setdefault(pure.parent, {})[pure.name] = node
        for parent, change in changes.items():
            folder = self._find(str(parent))
            if isinstance(folder, Folder):
                folder.pending.append(change)

    def survivors(self, dice: random.Random | None = None) -> dict[str, bytes | None]:
        """What is left after a power loss: the bytes of files by their paths below the root, None for folders.

        Without `dice` only what is durable; with them, some of the rest.
        """
        return dict(_walk(self.top, "", dice))


def _walk(folder: Folder, prefix: str, dice: random.Random | None) -> Iterator[tuple[str, bytes | None]]:
    kept = Folder(folder.durable, _choose(folder.pending, dice)) if dice else Folder(folder.durable)
    for name, node in kept.current().items():
        path = f"{prefix}{name}"
        if isinstance(node, Folder):
            yield path, None
            yield from _walk(node, f"{path}/", dice)
        else:
            yield path, apply(node.durable, _tear(_choose(node.pending, dice), dice)) if dice else node.durable


def _choose(pending: list[T], dice: random.Random) -> list[T]:
    """None, all, the first ones, or any of them."""
    kind = dice.randrange(4)
    if kind < 2:
        return pending if kind else []
    if kind == 2:
        return pending[: dice.randrange(len(pending) + 1)]
    return [one for one in pending if dice.random() < 0.5]


def _tear(changes: list[Change], dice: random.Random) -> list[Change]:
    """The same, the last write perhaps in part."""
    if not changes or changes[-1].data is None or dice.random() < 0.5:
        return changes
    last = changes[-1]
    sectors = dice.randrange(len(last.data or b"") // SECTOR_BYTES + 1)
    return [*changes[:-1], Change(last.offset, (last.data or b"")[: sectors * SECTOR_BYTES])]
