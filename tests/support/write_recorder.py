"""Records the order in which a process and its threads write, sync, rename and delete below a folder, and what it sends to sockets.

The recording is that of strace, with all bytes; `read_events` turns it into events. A system call that another thread interrupts in
the recording has two events, at its start and at its end.
"""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_CALLS = (
    "openat,open,creat,write,pwrite64,pwritev,pwritev2,writev,ftruncate,truncate,fallocate,copy_file_range,sendfile,fsync,fdatasync,"
    "sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,sendto,sendmsg"
)
_MAX_BYTES = 4 << 20
"""Of one call."""
_LINE = re.compile(r"(\d+) +(.*)")
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_END = re.compile(r"(.*)\) +(?:= )(-?\d.*)")
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call with its arguments as strace writes them, and its result, an empty text at its start."""

    name: str
    arguments: str
    result: str = ""

    @property
    def is_ended(self) -> bool:
        return bool(self.result)

    @property
    def value(self) -> int:
        """The number that was returned, negative for an error."""
        return int(re.split(r"[< ]", self.result, maxsplit=1)[0])

    @property
    def path(self) -> str:
        """The path of the first descriptor among the arguments."""
        found = _DESCRIPTOR.search(self.arguments)  # the arguments may have megabytes of data behind it
        assert found is not None
        return _path_of(found)

    @property
    def result_path(self) -> str:
        """The path of the descriptor that was returned."""
        found = _DESCRIPTOR.match(self.result)
        return _decode(found[2]).decode() if found else ""

    @property
    def descriptors(self) -> list[str]:
        """The paths of all descriptors among the arguments, an empty text for a file that is deleted."""
        return [_path_of(one) for one in _DESCRIPTOR.finditer(self.arguments)]

    @property
    def number_of_descriptor(self) -> int:
        """The number of the first descriptor among the arguments."""
        found = _DESCRIPTOR.search(self.arguments)
        return int(found[1]) if found and found[1] != "AT_FDCWD" else -1

    @property
    def strings(self) -> list[bytes]:
        """All strings among the arguments."""
        found = list(_STRING.finditer(self.arguments))
        assert not any(one[2] for one in found), "a string was not recorded whole"
        return [_decode(one[1]) for one in found]

    @property
    def numbers(self) -> list[int]:
        """The arguments that are plain numbers, in their order."""
        plain = re.sub(r"\[.*\]", "", _DESCRIPTOR.sub("", _STRING.sub("", self.arguments)))
        return [int(one) for one in re.findall(r"(?:^|, )(-?\d+)(?=,|$)", plain)]

    @property
    def offsets(self) -> list[int]:
        """The numbers behind pointers, as they were at the start."""
        return [int(one) for one in re.findall(r", \[(\d+)\]", self.arguments)]


@dataclass(slots=True)
class Event:
    """One line of the recording. `call` has its result where this is its end; `thread` says which start belongs to it."""

    thread: int
    call: Call
    starts: bool = True
    ends: bool = field(default=True)


def strace_command(output: Path) -> list[str]:
    """The beginning of a command line whose rest is recorded into that file."""
    program = shutil.which("strace")
    assert program is not None
    return [
        program,
        *("--follow-forks", "--decode-fds=path", "--strings-in-hex=all", f"--string-limit={_MAX_BYTES}", "--quiet=all"),
        *("--signal=none", "--seccomp-bpf", f"--trace={_CALLS}", f"--output={output}"),
    ]


def read_events(recording: Path) -> Iterator[Event]:
    """Yield the events in their order. The last line may be incomplete where the process was killed."""
    unfinished: dict[int, tuple[str, str]] = {}
    with recording.open(encoding="ascii", errors="replace") as lines:
        for line in lines:
            found = _LINE.match(line)
            if not found or not line.endswith("\n"):
                continue
            thread, text = int(found[1]), found[2]
            if text.startswith(("+++", "---")):
                continue
            if resumed := _RESUMED.match(text):
                name, began = unfinished.pop(thread)
                call = _parse(began + resumed[2])
                if call is not None and call.name == name:
                    yield Event(thread, call, starts=False)
                continue
            if text.endswith("<unfinished ...>"):
                began = text.removesuffix("<unfinished ...>").rstrip()
                name, _, arguments = began.partition("(")
                unfinished[thread] = (name, began)
                yield Event(thread, Call(name, arguments), ends=False)
                continue
            call = _parse(text)
            if call is not None:
                yield Event(thread, call)


def _parse(text: str) -> Call | None:
    ended = _END.match(text)
    if not ended:
        return None
    head, result = ended[1], ended[2]
    name, opened, arguments = head.partition("(")
    return Call(name, arguments, result) if opened else None


def _path_of(found: re.Match[str]) -> str:
    return "" if found[3] else _decode(found[2]).decode(errors="replace")


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
