"""`python -m deploy.local` for tests of the product: its services are forks of the run's tree (`fork_server`).

The runner is such a fork itself, or executed (`execution`), for tests of what it inherits. It supervises, logs and stops as always:
only the start of a service differs. A service still ends with the runner, because its connection to the tree does.
"""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from deploy.local.__main__ import main as run_stack
from deploy.local.processes import Child
from tests.support.fork_server import ForkedProcess
from tests.support.processes import fork_program, fork_servers

TREE_VARIABLE = "TEST_FORK_TREE"
"""The address of the tree, in the environment of the runner."""
MODULES = ("gateway", "services.upload", "services.stream", "services.socket", "services.live")


class ForkedService(Child):
    """A service that is forked. Other programs are executed."""

    def _start_process(self, output: BinaryIO) -> subprocess.Popen[bytes]:
        if self.program.command[-1] not in MODULES:
            return super()._start_process(output)
        process = fork_program(self.program, output)
        threading.Thread(target=_signal_end_of, args=(os.pidfd_open(process.pid),), daemon=True).start()
        return process


def _signal_end_of(descriptor: int) -> None:
    """Send this process the signal that it would get if the process of `descriptor` was its child."""
    ended = select.poll()
    ended.register(descriptor, select.POLLIN)
    ended.poll()
    os.close(descriptor)
    os.kill(os.getpid(), signal.SIGCHLD)


def start(environment: Mapping[str, str], arguments: Sequence[str], output: int, errors: int) -> ForkedProcess:
    """Start a runner with this environment. Its output and its errors go to these descriptors."""
    environment = {**environment, TREE_VARIABLE: fork_servers.address}
    return fork_servers.get(__name__).start(environment, output, *arguments, errors=errors)


def execution(environment: Mapping[str, str], arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a runner that is executed."""
    return [sys.executable, "-m", __name__, *arguments], {**environment, TREE_VARIABLE: fork_servers.address}


if __name__ == "__main__":
    fork_servers.share(os.environ.pop(TREE_VARIABLE))
    sys.exit(run_stack(ForkedService))
