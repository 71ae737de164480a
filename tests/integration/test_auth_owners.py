"""Whose a file and an upload is: over both stores, at the upload service directly and through the gateway."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.tokens import AUTH_ENV, authorized
from tests.support.websocket_client import WebSocketClient

TUS = {"tus-resumable": "1.0.0"}
OFFSET = {"content-type": "application/offset+octet-stream", "upload-offset": "0"}
ALICE, BOB, ADMIN = authorized("write read", "alice"), authorized("write read", "bob"), authorized("admin", "root")


@dataclass
class Services:
    """The services on one store, and the gateway before them."""

    upload: httpx.Client
    stream: httpx.Client
    gateway: httpx.Client
    socket: ServiceProcess

    def put(self, name: str, headers: dict[str, str], body: bytes = b"text") -> Any:
        answer = self.upload.put(f"/files/{name}", content=body, headers=headers)
        assert answer.status_code in {200, 201}, answer.text
        return answer.json()

    def info(self, name: str, headers: dict[str, str] = ALICE) -> Any:
        query = {"folder": "own", "filename": name}
        return self.stream.get("/file/info", params=query, headers={**headers, "cache-control": "no-cache"}).json()

    def create(self, headers: dict[str, str], metadata: str, **fields: str) -> httpx.Response:
        tus = {**TUS, "upload-length": "4", "upload-metadata": metadata, **fields, **headers}
        return self.upload.post("/file/tus", headers=tus)


@pytest.fixture(scope="module", params=["gridfs", "files"])
def services(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    mongod: ServerProcess,
    redis_server: ServerProcess,
) -> Iterator[Services]:
    logs = tmp_path_factory.mktemp("owners")
    env = storage_env(mongod, redis_server.url, "auth_owners", **AUTH_ENV)
    if request.param == "files":
        env |= {"GRIDCAST_STORE": "files", "GRIDCAST_FILES_DIR": str(logs / "store")}
    with (
        run_service("services.upload", logs, env) as upload,
        run_service("services.stream", logs, env) as stream,
        run_service("services.socket", logs, {**AUTH_ENV, "GRIDCAST_REDIS_URL": redis_server.url}) as socket,
    ):
        # Live gets no request; it is named so that the gateway becomes ready.
        urls = {"UPLOAD": upload.url, "STREAM": stream.url, "SOCKET": socket.url, "LIVE": upload.url}
        addresses = {f"GRIDCAST_{name}_URLS": url for name, url in urls.items()}
        with (
            run_service("gateway", logs, {**addresses, "GRIDCAST_AUTH": "hs256"}) as gateway,
            httpx.Client(base_url=upload.url) as to_upload,
            httpx.Client(base_url=stream.url) as to_stream,
            httpx.Client(base_url=gateway.url) as to_gateway,
        ):
            yield Services(to_upload, to_stream, to_gateway, socket)


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def test_a_file_belongs_to_who_uploaded_it_whichever_way(services: Services) -> None:
    assert services.put("own/put.txt", ALICE)["owner"] == "alice"
    form = {"data": {"owner": "bob"}, "files": {"file": ("form.txt", b"x")}, "headers": ALICE}
    assert services.upload.post("/file/upload?folder=own", **form).status_code == 201  # type: ignore[arg-type]
    late = {"data": {"folder": "own"}, "files": {"file": ("late.txt", b"x")}, "headers": ALICE}
    assert services.upload.post("/file/upload", **late).status_code == 201  # type: ignore[arg-type]
    named = metadata(filename="tus.txt", folder="own", owner="bob")
    location = services.create(ALICE, named).headers["location"]
    # The last bytes come from another process than the one that began it, as far as the store is concerned, and from an admin.
    sent = services.gateway.patch(location, content=b"text", headers={**TUS, **OFFSET, **ADMIN})
    assert sent.status_code == 204
    part = services.create(ALICE, "", **{"upload-concat": "partial"}).headers["location"]
    services.upload.patch(part, content=b"part", headers={**TUS, **OFFSET, **ALICE})
    joined = {**TUS, **ALICE, "upload-concat": f"final;{part}", "upload-metadata": metadata(filename="j", folder="own")}
    assert services.upload.post("/file/tus", headers=joined).status_code == 201
    names = ("put.txt", "form.txt", "late.txt", "tus.txt", "j")
    for name in names:
        assert services.info(name)["owner"] == "alice", name
    # What a form and the metadata say of an owner is metadata.
    assert (services.info("form.txt")["metadata"], services.info("tus.txt")["metadata"]) == ({"owner": "bob"},) * 2
    listed = services.stream.get("/file?folder=own", headers=BOB).json()["files"]
    assert {file["filename"]: file["owner"] for file in listed} == dict.fromkeys(names, "alice")


@pytest.mark.anyio
async def test_a_file_that_replaces_another_belongs_to_its_own_uploader(services: Services) -> None:
    listener = await WebSocketClient.connect(services.socket, headers=authorized("read:own listen", "carol"))
    services.put("own/r.txt", ALICE)
    services.put("own/r.txt", BOB, b"other")
    assert services.info("r.txt")["owner"] == "bob"
    deleted = services.upload.delete("/files/own/r.txt", headers=authorized("delete:own", "dave"))
    assert deleted.status_code == 204

    await listener.receive_event("file.deleted")
    told = [
        (event["type"], event["data"]["owner"], event["data"].get("previous_owner", "none"))
        for event in listener.events
    ]
    assert told[-3:] == [
        ("file.created", "alice", "none"),
        ("file.replaced", "bob", "alice"),
        ("file.deleted", "bob", "none"),
    ]
    listener.abort()


def same_answer(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether two responses do not differ, but for the request's id, its date, and whether the body was read before it came."""
    varying = {b"x-request-id", b"date", b"connection"}
    left, right = (
        [(name, value) for name, value in answer.headers.raw if name not in varying] for answer in (one, other)
    )
    return (one.status_code, one.content, left) == (other.status_code, other.content, right)


def flip_last_digit(location: str) -> str:
    return location[:-1] + ("0" if location[-1] != "0" else "1")


@pytest.mark.parametrize("way", ["directly", "gateway"])
def test_the_upload_of_another_is_as_unknown_as_one_that_never_was(services: Services, way: str) -> None:
    client = services.gateway if way == "gateway" else services.upload

    def ask(path: str, headers: dict[str, str]) -> list[httpx.Response]:
        tus = {**TUS, **headers}
        patch = {**tus, **OFFSET}
        override = "x-http-method-override"
        return [
            client.head(path, headers=tus),
            client.patch(path, content=b"evil", headers=patch),
            client.patch(path, content=b"", headers=patch),
            client.post(path, headers={**tus, override: "HEAD"}),
            client.post(path, content=b"evil", headers={**patch, override: "PATCH"}),
            client.post(path, headers={**tus, override: "DELETE"}),
            client.delete(path, headers=tus),
        ]

    def join(paths: str, headers: dict[str, str], name: str) -> httpx.Response:
        fields = {"upload-concat": f"final;{paths}", "upload-metadata": metadata(filename=name, folder="own")}
        return client.post("/file/tus", headers={**TUS, **headers, **fields})

    location = services.create(ALICE, metadata(filename=f"{way}.txt", folder="own")).headers["location"]
    part = services.create(ALICE, "", **{"upload-concat": "partial"}).headers["location"]
    assert services.upload.patch(part, content=b"part", headers={**TUS, **OFFSET, **ALICE}).status_code == 204
    for of_alice in (location, part):
        unknown = flip_last_digit(of_alice)
        for hidden, missing in zip(ask(of_alice, BOB), ask(unknown, BOB), strict=True):
            assert hidden.status_code == 404
            assert same_answer(hidden, missing)
    own = services.create(BOB, "", **{"upload-concat": "partial"}).headers["location"]
    services.upload.patch(own, content=b"mine", headers={**TUS, **OFFSET, **BOB})
    for of_alice in (location, part):
        unknown = flip_last_digit(of_alice)
        hidden, missing = (join(f"{own} {path}", BOB, f"{way}-joined") for path in (of_alice, unknown))
        assert hidden.status_code == 400
        # The answer names the id that was sent, and nothing else differs.
        ids = [path.rpartition("/")[2].encode() for path in (of_alice, unknown)]
        assert hidden.content.replace(ids[0], ids[1]) == missing.content
    # Nothing was touched: the owner, and an admin, find all as it was.
    for path, offset in ((location, "0"), (part, "4")):
        for headers in (ALICE, ADMIN):
            found = client.head(path, headers={**TUS, **headers})
            assert (found.status_code, found.headers["upload-offset"]) == (200, offset)
    assert join(own, BOB, f"{way}-own").status_code == 201
    assert client.delete(location, headers={**TUS, **ADMIN}).status_code == 204
    assert client.head(location, headers={**TUS, **ALICE}).status_code == 404
    assert join(part, ADMIN, f"{way}-admin").status_code == 201


def test_what_became_of_an_upload_is_hidden_too(services: Services) -> None:
    """Of one that was stored, and of one whose name was taken by another file meanwhile."""
    stored = services.create(ALICE, metadata(filename="stored.txt", folder="own")).headers["location"]
    services.upload.patch(stored, content=b"text", headers={**TUS, **OFFSET, **ALICE})
    lost = services.create(ALICE, metadata(filename="lost.txt", folder="own")).headers["location"]
    services.put("own/lost.txt", BOB)
    taken = services.upload.patch(lost, content=b"text", headers={**TUS, **OFFSET, **ALICE})
    assert taken.status_code == 410
    for path, of_alice in ((stored, 200), (lost, 410)):
        assert services.upload.head(path, headers={**TUS, **ALICE}).status_code == of_alice
        hidden = services.upload.head(path, headers={**TUS, **BOB})
        assert same_answer(hidden, services.upload.head(flip_last_digit(path), headers={**TUS, **BOB}))
        assert hidden.status_code == 404
