"""Every route and every socket command, times twelve credentials, through the gateway and at each service directly.

The routes come from the gateway's route table, from the applications of the services and from AsyncAPI, never from the table of
rights: a route that is missing here, or that has no rule, fails.
"""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from websockets.exceptions import InvalidStatus

from gateway import routes
from gateway.app import create_app as create_gateway
from gateway.settings import GatewaySettings
from services.common.auth.route_rules import template_shape
from services.common.web.route_list import list_routes
from services.live.app import create_app as create_live
from services.socket.app import create_app as create_socket
from services.stream.app import create_app as create_stream
from services.upload.app import create_app as create_upload
from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.tokens import AUTH_ENV, OTHER_SECRET, bearer, claims, sign, token
from tests.support.waiting import eventually
from tests.support.websocket_client import WebSocketClient

ASYNCAPI = yaml.load((Path(__file__).parents[2] / "docs/asyncapi.yaml").read_text("utf-8"), yaml.CSafeLoader)
NOW = int(time.time())
TUS = {"tus-resumable": "1.0.0"}
SID = "A" * 52
METADATA = ",".join(
    f"{key} {base64.b64encode(value).decode()}" for key, value in (("filename", b"m.txt"), ("folder", b"team-a"))
)


@dataclass(frozen=True)
class Case:
    """One request to a route, the right that it needs, and a right for another folder or topic."""

    path: str
    right: str | None
    wrong_folder: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: Any = None


QUERY = "?folder=team-a&filename=m.txt"
CASES: dict[tuple[str, str], Case] = {
    ("GET", "/"): Case("/", None),
    ("GET", "/docs"): Case("/docs", None),
    ("GET", "/openapi.json"): Case("/openapi.json", None),
    ("GET", "/asyncapi.yaml"): Case("/asyncapi.yaml", None),
    ("GET", "/page/{}"): Case("/page/index.js", None),
    ("GET", "/client/{}"): Case("/client/index.js", None),
    ("GET", "/livez"): Case("/livez", None),
    ("GET", "/readyz"): Case("/readyz", None),
    ("GET", "/version"): Case("/version", None),
    ("GET", "/status"): Case("/status", "admin", "read"),
    ("GET", "/file"): Case("/file?folder=team-a", "read:team-a", "read:team-b"),
    ("PATCH", "/file"): Case(
        "/file?folder=team-a&filename=none",
        "delete:team-a write:team-a",
        "delete:team-b write:team-a",
        body={"filename": "m"},
    ),
    ("GET", "/upload/{}/stream"): Case("/upload/none/stream", None),
    ("GET", "/upload/{}/media.m3u8"): Case("/upload/none/media.m3u8", None),
    ("GET", "/upload/{}/media.mp4"): Case("/upload/none/media.mp4", None),
    ("GET", "/file/poster"): Case(f"/file/poster{QUERY}", "read:team-a", "read:team-b"),
    ("PUT", "/file/poster"): Case(f"/file/poster{QUERY}", "write:team-a", "write:team-b", body=b"x"),
    ("DELETE", "/file/poster"): Case(f"/file/poster{QUERY}", "write:team-a", "write:team-b"),
    ("POST", "/file/restore"): Case("/file/restore?folder=team-a&filename=none", "write:team-a", "write:team-b"),
    ("POST", "/file/delete"): Case(
        "/file/delete", "delete:team-a", "write:team-a", body={"files": [{"folder": "team-a", "filename": "none"}]}
    ),
    ("GET", "/file/folders"): Case("/file/folders", "read:team-a", "write:team-a"),
    ("GET", "/file/info"): Case(f"/file/info{QUERY}", "read:team-a", "read:team-b"),
    ("GET", "/live"): Case("/live", "read:team-a", "write:team-a"),
    ("POST", "/live"): Case(
        "/live", "publish:team-a", "publish:team-b", body={"folder": "team-a", "filename": "live.mp4"}
    ),
    ("GET", "/live/{}"): Case("/live/none", "read:team-a", "write:team-a"),
    ("POST", "/live/{}/end"): Case("/live/none/end", "publish:team-a", "read:team-a"),
    ("DELETE", "/live/{}"): Case("/live/none", "publish:team-a", "read:team-a"),
    # Ingest takes the publish token of the stream: for one that is not there nothing is judged.
    ("OPTIONS", "/live/{}/tus"): Case("/live/none/tus", None),
    ("HEAD", "/live/{}/tus"): Case("/live/none/tus", None, headers=tuple(TUS.items())),
    ("POST", "/live/{}/tus"): Case("/live/none/tus", None, headers=tuple(TUS.items())),
    ("PATCH", "/live/{}/tus"): Case("/live/none/tus", None, "", tuple(TUS.items()), b"x"),
    ("POST", "/live/{}/media"): Case("/live/none/media", None, body=b"x"),
    ("PUT", "/live/{}/media"): Case("/live/none/media", None, body=b"x"),
    ("PUT", "/live/{}/media/{}"): Case("/live/none/media/a.m4s", None, body=b"x"),
    ("POST", "/live/{}/media/{}"): Case("/live/none/media/a.m4s", None, body=b"x"),
    ("DELETE", "/live/{}/media/{}"): Case("/live/none/media/a.m4s", None),
    ("POST", "/live/{}/key/{}/media"): Case("/live/none/key/none/media", None, body=b"x"),
    ("PUT", "/live/{}/key/{}/media"): Case("/live/none/key/none/media", None, body=b"x"),
    ("PUT", "/live/{}/key/{}/media/{}"): Case("/live/none/key/none/media/a.m4s", None, body=b"x"),
    ("POST", "/live/{}/key/{}/media/{}"): Case("/live/none/key/none/media/a.m4s", None, body=b"x"),
    ("DELETE", "/live/{}/key/{}/media/{}"): Case("/live/none/key/none/media/a.m4s", None),
    ("GET", "/live/{}/index.m3u8"): Case("/live/0123456789abcdef/index.m3u8", "read:team-a", "write:team-a"),
    ("GET", "/live/{}/media.m3u8"): Case("/live/0123456789abcdef/media.m3u8", "read:team-a", "write:team-a"),
    ("GET", "/live/{}/{}/init.mp4"): Case("/live/0123456789abcdef/0/init.mp4", "read:team-a", "write:team-a"),
    ("GET", "/live/{}/messages"): Case("/live/0123456789abcdef/messages", "read:team-a", "write:team-a"),
    ("POST", "/live/{}/messages"): Case(
        "/live/0123456789abcdef/messages", "push:live/*", "push:other/*", body={"type": "chat.said"}
    ),
    ("GET", "/live/{}/{}/{}.m4s"): Case("/live/0123456789abcdef/0/0.m4s", "read:team-a", "write:team-a"),
    ("GET", "/file/stream"): Case(f"/file/stream{QUERY}", "read:team-a", "read:team-b"),
    ("HEAD", "/file/stream"): Case(f"/file/stream{QUERY}", "read:team-a", "read:team-b"),
    ("PUT", "/file/stream"): Case(f"/file/stream{QUERY}", "write:team-a", "write:team-b", body=b"x"),
    ("DELETE", "/file/stream"): Case("/file/stream?folder=team-a&filename=none", "delete:team-a", "delete:team-b"),
    ("GET", "/files/{}"): Case("/files/team-a/m.txt", "read:team-a", "read:team-b"),
    ("HEAD", "/files/{}"): Case("/files/team-a/m.txt", "read:team-a", "read:team-b"),
    ("PUT", "/files/{}"): Case("/files/team-a/m.txt", "write:team-a", "write:team-b", body=b"x"),
    ("DELETE", "/files/{}"): Case("/files/team-a/none", "delete:team-a", "delete:team-b"),
    ("POST", "/file/upload"): Case("/file/upload?folder=team-a", "write:team-a", "write:team-b", body=b"no form"),
    ("OPTIONS", "/file/tus"): Case("/file/tus", None),
    ("POST", "/file/tus"): Case(
        "/file/tus",
        "write:team-a",
        "write:team-b",
        (*TUS.items(), ("upload-length", "5"), ("upload-metadata", METADATA)),
    ),
    ("OPTIONS", "/file/tus/{}"): Case("/file/tus/none", None),
    ("HEAD", "/file/tus/{}"): Case("/file/tus/none", "write:team-a", "read:team-a", tuple(TUS.items())),
    ("PATCH", "/file/tus/{}"): Case("/file/tus/none", "write:team-a", "read:team-a", tuple(TUS.items()), b"x"),
    ("POST", "/file/tus/{}"): Case("/file/tus/none", "write:team-a", "read:team-a", tuple(TUS.items())),
    ("DELETE", "/file/tus/{}"): Case("/file/tus/none", "write:team-a", "read:team-a", tuple(TUS.items())),
    ("POST", "/file/link"): Case(
        "/file/link",
        "link:team-a read:team-a",
        "link:team-b read:team-a",
        body={"links": [{"folder": "team-a", "filename": "m.txt"}]},
    ),
    ("PATCH", "/file/link/{}"): Case("/file/link/none", "link:team-a", "read:team-a", body={"link": "none"}),
    ("DELETE", "/file/link/{}"): Case("/file/link/none", "link:team-a", "read:team-a"),
    ("POST", "/auth/revocations"): Case("/auth/revocations", "admin", "write", body={"token_id": "none"}),
    ("GET", "/webhooks/endpoints"): Case("/webhooks/endpoints", "admin", "write"),
    ("POST", "/webhooks/endpoints"): Case("/webhooks/endpoints", "admin", "write", body={"id": "none", "url": "http:"}),
    ("DELETE", "/webhooks/endpoints/{}"): Case("/webhooks/endpoints/none", "admin", "write"),
    ("POST", "/webhooks/endpoints/{}/activation"): Case("/webhooks/endpoints/none/activation", "admin", "write"),
    ("GET", "/webhooks/deliveries"): Case("/webhooks/deliveries", "admin", "write"),
    ("POST", "/webhooks/replays"): Case("/webhooks/replays", "admin", "write", body={"id": "none"}),
    ("GET", "/sockets"): Case("/sockets", "sockets", "sockets:x"),
    ("GET", "/sockets/{}"): Case(f"/sockets/{SID}", "sockets", "sockets:x"),
    ("DELETE", "/sockets/{}"): Case(f"/sockets/{SID}", "sockets", "sockets:x"),
    ("POST", "/sockets/messages"): Case("/sockets/messages?topic=room", "push:room", "push:hall", body={"type": "t"}),
    ("POST", "/sockets/{}/messages"): Case(f"/sockets/{SID}/messages", "push", "push:room", body={"type": "t"}),
}
"""By method and template: HEAD that only follows a GET is not listed by itself, but requested as well."""


def service_routes(create: Any) -> set[tuple[str, str]]:
    built = create()
    app = built._http_app if hasattr(built, "_http_app") else built
    found = {(method, template_shape(path)) for method, path in list_routes(app.app)}
    return found | {(method, template_shape(path)) for method, path in (*app.bypass_routes, *app.fast_path_handlers)}


def known_routes() -> dict[str, set[tuple[str, str]]]:
    """The routes of each process, by its own table."""
    return {
        "gateway": {(method, template_shape(path)) for method, path in routes.all_operations()},
        "upload": service_routes(create_upload),
        "stream": service_routes(create_stream),
        "socket": service_routes(create_socket),
        "live": service_routes(create_live),
    }


def test_no_route_is_missing_here() -> None:
    wanted = set().union(*known_routes().values())
    missing = {(method, path) for method, path in wanted if method != "HEAD" or ("GET", path) not in CASES} - set(CASES)
    assert missing == set()
    assert set(CASES) - wanted == set()
    create_gateway(GatewaySettings())  # starts only where each of its routes has a rule


KEY = rsa.generate_private_key(65537, 2048)
PUBLIC_PEM = KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def credentials(case: Case) -> dict[str, tuple[dict[str, str], int]]:
    """Twelve credentials, each with the status that refuses it; 0 where it must not be refused."""
    right = case.right or ""
    header = {"alg": "HS256", "typ": "JWT", "kid": "k1"}
    return {
        "none": ({}, 401),
        "expired": (bearer(token("alice", right, exp=NOW - 60)), 401),
        "early": (bearer(token("alice", right, nbf=NOW + 40_000)), 401),
        "wrong audience": (bearer(token("alice", right, aud="other")), 401),
        "wrong issuer": (bearer(token("alice", right, iss="https://attacker.example")), 401),
        "alg none": (bearer(f"{sign({'alg': 'none'}, claims('alice', right)).rpartition('.')[0]}.AA"), 401),
        "wrong key": (bearer(token("alice", right, OTHER_SECRET)), 401),
        "key confusion": (bearer(sign(header, claims("alice", right), PUBLIC_PEM)), 401),
        "revoked": (bearer(token("alice", right, iss=ISSUER, jti=REVOKED)), 401),
        "no scope": (bearer(token("alice", "openid", iss=ISSUER)), 403),
        "wrong folder": (bearer(token("alice", case.wrong_folder, iss=ISSUER)), 403),
        "right": (bearer(token("alice", right, iss=ISSUER)), 0),
    }


ISSUER = "https://idp.example"
REVOKED = "a-token-that-was-lost"


def is_revoked(url: str, path: str) -> bool:
    headers = bearer(token("alice", "admin", iss=ISSUER, jti=REVOKED))
    return httpx.get(f"{url}{path}", headers=headers).status_code == 401


def push_to_unknown(url: str, headers: dict[str, str]) -> int:
    return httpx.post(f"{url}/sockets/{SID}/messages", json={"type": "t"}, headers=headers).status_code


@pytest.fixture(scope="module")
def processes(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[dict[str, ServiceProcess]]:
    logs = tmp_path_factory.mktemp("matrix")
    env = storage_env(mongod, redis_server.url, "auth_matrix", **AUTH_ENV, GRIDCAST_AUTH_ISSUER=ISSUER)
    with (
        run_service("services.upload", logs, env) as upload,
        run_service("services.stream", logs, env) as stream,
        run_service("services.socket", logs, env) as sockets,
        run_service("services.live", logs, env) as live,
    ):
        urls = {"UPLOAD": upload.url, "STREAM": stream.url, "SOCKET": sockets.url, "LIVE": live.url}
        addresses = {f"GRIDCAST_{name}_URLS": url for name, url in urls.items()}
        with run_service("gateway", logs, {**addresses, "GRIDCAST_AUTH": "hs256"}) as gateway:
            admin = bearer(token("root", "admin", iss=ISSUER))
            done = httpx.post(f"{gateway.url}/auth/revocations", json={"token_id": REVOKED}, headers=admin)
            assert done.status_code == 201
            replicas = ((stream, "/file"), (sockets, "/sockets"), (live, "/live"))
            eventually(lambda: all(is_revoked(service.url, path) for service, path in replicas), 5)
            # A Redis that has just started: 503 until every replica has registered its sessions.
            eventually(lambda: push_to_unknown(sockets.url, admin) == 404, 60)
            yield {"gateway": gateway, "upload": upload, "stream": stream, "socket": sockets, "live": live}


@pytest.mark.parametrize("name", ["gateway", "upload", "stream", "socket", "live"])
def test_every_route_with_every_credential(processes: dict[str, ServiceProcess], name: str) -> None:
    judged = 0
    with httpx.Client(base_url=processes[name].url, timeout=30) as client:
        client.put(f"/file/stream{QUERY}", content=b"text", headers=bearer(token("root", "admin", iss=ISSUER)))
        for method, shape in sorted(known_routes()[name]):
            case = CASES.get((method, shape)) or CASES["GET", shape]
            for kind, (headers, refusal) in credentials(case).items():
                options: dict[str, Any] = {"json" if isinstance(case.body, dict) else "content": case.body}
                response = client.request(method, case.path, headers={**dict(case.headers), **headers}, **options)
                what = f"{name}: {method} {case.path} with {kind}: {response.status_code} {response.text[:200]}"
                if case.right is None:
                    assert response.status_code not in {401, 403}, what
                elif refusal:
                    assert response.status_code == refusal, what
                    assert response.headers["www-authenticate"].startswith("Bearer realm="), what
                    assert ("insufficient_scope" in response.headers["www-authenticate"]) == (refusal == 403), what
                else:
                    assert response.status_code not in {401, 403}, what
                assert response.status_code < 500, what
                judged += 1
    assert judged == 12 * len(known_routes()[name])


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["gateway", "socket"])
async def test_every_handshake_with_every_credential(processes: dict[str, ServiceProcess], name: str) -> None:
    case = Case("/ws", "listen:room", "listen:hall")
    for kind, (headers, refusal) in credentials(case).items():
        value = headers.get("authorization", "").removeprefix("Bearer ")
        ways: list[dict[str, Any]] = [{"headers": headers}]
        if value:
            ways.append({"subprotocols": ["cloudevents.json", f"bearer.{value}"]})
        for way in ways:
            try:
                client = await WebSocketClient.connect(processes[name], topics="room", **way)
            except InvalidStatus as error:
                status, challenge = error.response.status_code, error.response.headers["www-authenticate"]
            else:
                status, challenge = 0, "Bearer realm="
                client.abort()
            assert status == refusal, kind
            assert challenge.startswith("Bearer realm="), kind


COMMANDS: dict[str, tuple[dict[str, Any], str]] = {
    "ping": ({"type": "ping"}, "pong"),
    "subscribe": ({"type": "subscribe", "topic": "hall"}, "error"),
    "unsubscribe": ({"type": "unsubscribe", "topic": "hall"}, "unsubscribed"),
    "ack": ({"type": "ack", "id": "1"}, ""),
    "token": ({"type": "token", "token": "a.b.c"}, "error"),
}
"""Each command of AsyncAPI, as a client without a right for it sends it, and the reply; empty: none."""
EVENTS = {
    "event",
    "fileChanged",
    "fileProgress",
    "filePlayable",
    "liveChanged",
    "liveMessage",
    "liveReceived",
    "resync",
    "expiring",
}
"""Each event type of AsyncAPI: test_auth_sockets has the case of each that rights decide."""
REPLIES = {"first", "pong", "subscribed", "unsubscribed", "tokenRenewed", "error"}


def test_no_command_and_no_event_is_missing_here() -> None:
    def names(operation: str) -> set[str]:
        return {message["$ref"].rpartition("/")[2] for message in ASYNCAPI["operations"][operation]["messages"]}

    assert names("clientCommands") == set(COMMANDS)
    assert names("serverMessages") == EVENTS | REPLIES


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["gateway", "socket"])
async def test_every_command_without_its_right(processes: dict[str, ServiceProcess], name: str) -> None:
    headers = bearer(token("alice", "listen:room", iss=ISSUER))
    for command, reply in COMMANDS.values():
        client = await WebSocketClient.connect(processes[name], headers=headers)
        if reply:
            frame = await client.send_command(command)
            assert (frame.get("type") or next(iter(frame))) == reply, json.dumps(frame)
        else:
            await client.send(command)
            await client.assert_nothing_pending()
        client.abort()
