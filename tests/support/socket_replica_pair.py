"""A gateway before the places of two socket replicas, which are filled and emptied at will: where a client is, is then known."""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from deploy.local import databases
from deploy.local.ports import free_ports
from tests.support.databases import run_server
from tests.support.processes import ServiceProcess, run_service


class SocketReplicaPair:
    """`start(0)` and `start(1)` run the replicas, `leave` and `kill` end them."""

    def __init__(self, redis_url: str, folder: Path, stack: contextlib.ExitStack) -> None:
        self.redis_url = redis_url
        self._folder = folder
        self._stack = stack
        self._ports = free_ports(2)
        self._replicas: dict[int, ServiceProcess] = {}
        self.start(0)
        sockets = ",".join(f"http://127.0.0.1:{port}" for port in self._ports)
        # No test here asks the other two services for anything; their places are taken so that the gateway is ready.
        env = {"GRIDCAST_SOCKET_URLS": sockets, "GRIDCAST_UPLOAD_URLS": sockets, "GRIDCAST_STREAM_URLS": sockets}
        self.gateway = stack.enter_context(run_service("gateway", folder, env))

    @property
    def websocket_url(self) -> str:
        """Where browsers connect."""
        return f"ws://127.0.0.1:{self.gateway.port}/ws"

    def start(self, index: int) -> None:
        """Fill a place; its port is always the same."""
        env = {"GRIDCAST_REDIS_URL": self.redis_url}
        self._replicas[index] = self._stack.enter_context(
            run_service("services.socket", self._folder, env, port=self._ports[index])
        )

    def terminate(self, index: int) -> None:
        """SIGTERM: the replica says 1012 to its sockets."""
        self._replicas[index].child.send_signal(signal.SIGTERM)

    def kill(self, index: int) -> None:
        """SIGKILL: its sockets see 1006."""
        self._replicas[index].child.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def run_socket_replica_pair(folder: Path) -> Iterator[SocketReplicaPair]:
    """With one replica, in place 0."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_server(folder / "redis", databases.redis_server))
        yield SocketReplicaPair(redis.url, folder, stack)
