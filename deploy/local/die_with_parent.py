"""Executes another program that the kernel kills when the parent process dies.

Run as a file: `python -I -S die_with_parent.py PARENT_PID PROGRAM ARGUMENT...`. It is a separate process and not a hook between
fork and exec (`preexec_fn`), because such hooks are not safe in a process with threads. It imports only the standard library.
Linux alone can signal the death of a parent (PR_SET_PDEATHSIG); elsewhere the program is executed without it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_EXEC_FAILED = 127


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the process `parent`, which started it, dies; exit if it has died already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        # A parent that died before the call above sends no signal.
        if os.getppid() != parent:
            sys.exit(EXIT_EXEC_FAILED)


def main() -> None:
    parent, *command = sys.argv[1:]
    die_with_parent(int(parent))
    try:
        os.execv(command[0], command)  # noqa: S606  # no shell: the signal must reach the program itself
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.exit(EXIT_EXEC_FAILED)


if __name__ == "__main__":
    main()
