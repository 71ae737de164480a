"""Becomes another program that cannot outlive the process that started it.

Run as a file: `python -I -S leash.py PARENT PROGRAM ARGUMENT...`. A step of its own, and no hook between fork and exec,
because such hooks are not safe in a process with threads. Knows nothing of what it starts; imports nothing of ours.
Only Linux can tie a process to its parent; elsewhere the program is started all the same.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
EXIT_EXEC_FAILED = 127


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
        # A parent that died before the call above sends nothing any more.
        if os.getppid() != int(parent):
            sys.exit(EXIT_EXEC_FAILED)
    try:
        os.execv(command[0], command)  # noqa: S606 - that no shell stands between is the point
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        sys.exit(EXIT_EXEC_FAILED)


if __name__ == "__main__":
    main()
