"""The Python client of Gridcast: `Client` and `AsyncClient` speak HTTP and WebSocket with a server.

    with gridcast.Client("http://127.0.0.1:8000") as client:
        client.upload("clip.mp4", "demo/clip.mp4")

`gridcast.publish` sends events to connected clients through Redis; `gridcast.webhooks.verify` judges webhooks where they arrive.
Names are imported on first use, so that `import gridcast` costs nothing of what it does not use.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridcast._async_client import AsyncClient
    from gridcast._client import Client
    from gridcast._listener import AsyncListener, Listener
    from gridcast._remote_file import AsyncRemoteFile, RemoteFile
    from gridcast._tokens import token_from_environment
    from gridcast.errors import RequestError
    from gridcast.values import (
        DeliveryInfo,
        EndpointInfo,
        EventGap,
        FileInfo,
        LiveInfo,
        LiveMessage,
        NewLive,
        PushReceipt,
        ReceivedEvent,
        RevocationReceipt,
        ServerVersion,
        SignedLink,
        TransferProgress,
    )

__all__ = [
    "AsyncClient",
    "AsyncListener",
    "AsyncRemoteFile",
    "Client",
    "DeliveryInfo",
    "EndpointInfo",
    "EventGap",
    "FileInfo",
    "Listener",
    "LiveInfo",
    "LiveMessage",
    "NewLive",
    "PushReceipt",
    "ReceivedEvent",
    "RemoteFile",
    "RequestError",
    "RevocationReceipt",
    "ServerVersion",
    "SignedLink",
    "TransferProgress",
    "token_from_environment",
]

_MODULES = {
    "AsyncClient": "gridcast._async_client",
    "AsyncListener": "gridcast._listener",
    "AsyncRemoteFile": "gridcast._remote_file",
    "Client": "gridcast._client",
    "Listener": "gridcast._listener",
    "RemoteFile": "gridcast._remote_file",
    "RequestError": "gridcast.errors",
    "token_from_environment": "gridcast._tokens",
}


if not TYPE_CHECKING:  # a checker of types must not take every name for one that is there

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415  # nothing is imported before it is used

        value = getattr(import_module(_MODULES.get(name, "gridcast.values")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
