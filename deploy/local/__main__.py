"""`python -m deploy.local`: the command line of the local run, its messages and its exit codes.

0: stopped by Ctrl-C, SIGTERM or SIGHUP, and every child ended within its stop timeout. 1: a child could not be started, ended too
often or was killed after its stop timeout; one line on stderr names it. 2: wrong arguments.
"""

import argparse
import os
import sys
from pathlib import Path

from deploy.local.binaries import url_from_environment
from deploy.local.data_dir import default_root, open_data_dir
from deploy.local.errors import StackError, StopRequested
from deploy.local.ports import check_port_is_free
from deploy.local.processes import Child
from deploy.local.signals import SignalWaiter
from deploy.local.stack import Stack, StackOptions, print_status
from deploy.local.store_choice import STORES, choose_store
from services.common.variables import UnknownVariableError, check_names


def main(child_class: type[Child] = Child) -> int:
    """Run the stack with the arguments of the command line, and return the exit code. `child_class` starts its programs."""
    arguments = _parse_arguments()
    try:
        check_names(os.environ)
    except UnknownVariableError as error:
        return _print_error(str(error))
    try:
        choice = choose_store(arguments.store, arguments.data, installed=True)
    except StackError as error:
        return _print_error(str(error))
    options = StackOptions(
        store=choice.store,
        port=arguments.port,
        upload_replicas=arguments.uploads,
        stream_replicas=arguments.streams,
        socket_replicas=arguments.sockets,
        live_replicas=arguments.live,
        mongodb_uri=url_from_environment("MONGODB_URI"),
        redis_url=url_from_environment("REDIS_URL"),
        reload=arguments.reload,
        ingest=arguments.ingest,
    )
    try:
        with SignalWaiter() as signals:
            check_port_is_free(options.port)
            with open_data_dir(arguments.data.resolve(), signals.pause) as data_dir:
                print_status(choice.describe())
                return _run(Stack(data_dir, signals, child_class), options, arguments.data / "logs")
    except StopRequested:
        return 0
    except StackError as error:
        return _print_error(str(error))


def _run(stack: Stack, options: StackOptions, log_dir: Path) -> int:
    code = 0
    try:
        url = stack.start(options)
        print_status(f"Gridcast is up; Ctrl-C stops it; logs are in {log_dir}\n{url}")
        stack.supervise()
    except StopRequested:
        print_status("stopping")
    except StackError as error:
        code = _print_error(str(error))
    finally:
        killed = stack.stop()
    return _print_error(f"killed after the stop timeout: {', '.join(killed)}") if killed else code


def _print_error(text: str) -> int:
    print(f"gridcast: {text}", file=sys.stderr, flush=True)
    return 1


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description="Runs the whole stack on this machine.")
    for service in ("uploads", "streams", "sockets", "live"):
        parser.add_argument(
            f"--{service}", type=_replica_count, default=1, metavar="N", help="number of replicas (default 1)"
        )
    port = os.environ.get("PORT") or "8000"
    parser.add_argument("--port", type=int, default=port, help="the gateway's port (PORT, default 8000)")
    parser.add_argument(
        "--data", type=Path, default=default_root(), help="directory of data and logs (DATA, default .gridcast)"
    )
    parser.add_argument(
        "--store", choices=STORES, help="where files are stored (STORE, default gridfs if there is a mongod)"
    )
    parser.add_argument("--ingest", action="store_true", help="take RTMP and SRT by ffmpeg: docs/live-ingest.md")
    parser.add_argument("--reload", action="store_true", help="restart the services whose sources change")
    return parser.parse_args()


def _replica_count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 16:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 16")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
