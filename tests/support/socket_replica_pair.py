"""A gateway before two socket replicas that a test starts and stops, so that it knows which one a client is connected to."""

import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from deploy.local import databases
from deploy.local.ports import free_ports
from tests.support.databases import run_server
from tests.support.processes import ServiceProcess, run_service
from tests.support.redis_commands import send_redis_commands


class SocketReplicaPair:
    """Replicas 0 and 1 of the socket service: `start` runs one, `terminate` and `kill` end it, `freeze` stops it."""

    def __init__(
        self, redis_url: str, folder: Path, stack: contextlib.ExitStack, env: Mapping[str, str] | None = None
    ) -> None:
        self.redis_url = redis_url
        self._folder = folder
        self._stack = stack
        self._env = dict(env or {})
        self._ports = free_ports(2)
        self._replicas: dict[int, ServiceProcess] = {}
        self.start(0)
        sockets = ",".join(f"http://127.0.0.1:{port}" for port in self._ports)
        # The other services get no requests; they are named so that the gateway becomes ready.
        self._gateway_env = {
            "GRIDCAST_SOCKET_URLS": sockets,
            "GRIDCAST_UPLOAD_URLS": sockets,
            "GRIDCAST_STREAM_URLS": sockets,
            "GRIDCAST_LIVE_URLS": sockets,
        }
        self.gateway = stack.enter_context(run_service("gateway", folder, self._gateway_env))

    @property
    def websocket_url(self) -> str:
        """The address of /ws at the gateway."""
        return f"ws://127.0.0.1:{self.gateway.port}/ws"

    def start(self, index: int) -> None:
        """Start a replica, always on the same port."""
        env = {**self._env, "GRIDCAST_REDIS_URL": self.redis_url}
        self._replicas[index] = self._stack.enter_context(
            run_service("services.socket", self._folder, env, port=self._ports[index])
        )

    def restart_gateway(self) -> None:
        """Stop the gateway and start another one on its port."""
        self.gateway.terminate()
        self.gateway = self._stack.enter_context(
            run_service("gateway", self._folder, self._gateway_env, port=self.gateway.port)
        )

    def terminate(self, index: int) -> None:
        """Send SIGTERM: the replica closes its sockets with 1012."""
        self._replicas[index].child.send_signal(signal.SIGTERM)

    def freeze(self, index: int) -> None:
        """Send SIGSTOP: the replica keeps its connections and answers nothing."""
        self._replicas[index].child.send_signal(signal.SIGSTOP)

    def kill(self, index: int) -> None:
        """Send SIGKILL: its clients see 1006."""
        self._replicas[index].child.send_signal(signal.SIGKILL)


@contextlib.contextmanager
def run_socket_replica_pair(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[SocketReplicaPair]:
    """Run the gateway, a Redis and replica 0; replicas have the settings `env`."""
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(run_server(folder / "redis", databases.redis_server))
        if env:
            # Replicas that want tokens wait for the list of revoked ones, which the upload service writes each second.
            send_redis_commands(redis.port, "SET gridcast:revocations []")
        yield SocketReplicaPair(redis.url, folder, stack, env)
