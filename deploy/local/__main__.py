"""`python -m deploy.local`: the command line of the local run, its messages and its exit codes.

0: stopped because somebody asked, by Ctrl-C, SIGTERM or SIGHUP, and everything ended in time. 1: something could not be
started, ended by itself or had to be killed, and one line on stderr says what. 2: wrong arguments.
"""

import argparse
import os
import sys
from pathlib import Path

from deploy.local import folder
from deploy.local.failure import Failure, Stopped
from deploy.local.ports import must_be_free
from deploy.local.signals import Signals
from deploy.local.stack import Stack, Wanted, say


def main() -> int:
    options = _options()
    wanted = Wanted(
        port=options.port,
        uploads=options.uploads,
        streams=options.streams,
        sockets=options.sockets,
        mongodb_uri=_address("MONGODB_URI"),
        redis_url=_address("REDIS_URL"),
    )
    try:
        with Signals() as signals:
            must_be_free(wanted.port)
            with folder.opened(options.data.resolve(), signals.pause) as data:
                return _run(Stack(data, signals), wanted, options.data / "logs")
    except Stopped:
        return 0
    except Failure as failure:
        return _complain(str(failure))


def _run(stack: Stack, wanted: Wanted, logs: Path) -> int:
    code = 0
    try:
        address = stack.start(wanted)
        say(f"Gridcast is up; Ctrl-C stops it; logs are in {logs}\n{address}")
        stack.watch()
    except Stopped:
        say("stopping")
    except Failure as failure:
        code = _complain(str(failure))
    finally:
        killed = stack.stop()
    return _complain(f"had to be killed: {', '.join(killed)}") if killed else code


def _complain(text: str) -> int:
    print(f"gridcast: {text}", file=sys.stderr, flush=True)
    return 1


def _address(name: str) -> str | None:
    return os.environ.get(f"GRIDCAST_{name}") or os.environ.get(name) or None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="Runs the whole stack on this machine.")
    for service in ("uploads", "streams", "sockets"):
        parser.add_argument(f"--{service}", type=_count, default=1, metavar="N", help="how many replicas (default 1)")
    port = os.environ.get("PORT") or "8000"
    parser.add_argument("--port", type=int, default=port, help="the gateway's port (PORT, default 8000)")
    data = os.environ.get("DATA") or ".gridcast"
    parser.add_argument("--data", type=Path, default=data, help="where data and logs stay (DATA, default .gridcast)")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 16")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
