"""Rights on files: each service judges for itself, before a body is read and before anything is looked up."""

import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.tokens import AUTH_ENV, OTHER_SECRET, SECRET, authorized, bearer, token

TUS = {"tus-resumable": "1.0.0"}
OFFSET = {"content-type": "application/offset+octet-stream", "upload-offset": "0"}


class Services:
    """An upload and a stream service with authentication, on one database."""

    def __init__(self, upload: ServiceProcess, stream: ServiceProcess) -> None:
        self.processes = (upload, stream)
        self.upload = httpx.Client(base_url=upload.url)
        self.stream = httpx.Client(base_url=stream.url)

    def put(self, name: str, headers: dict[str, str], body: bytes = b"text") -> httpx.Response:
        return self.upload.put(f"/files/{name}", content=body, headers=headers)

    def create(self, headers: dict[str, str], metadata: str, **fields: str) -> httpx.Response:
        tus = {**TUS, "upload-length": "4", "upload-metadata": metadata, **fields, **headers}
        return self.upload.post("/file/tus", headers=tus)


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Services]:
    logs: Path = tmp_path_factory.mktemp("auth")
    env = storage_env(mongod, redis_server.url, "auth_files", **AUTH_ENV)
    with run_service("services.upload", logs, env) as upload, run_service("services.stream", logs, env) as stream:
        running = Services(upload, stream)
        with running.upload, running.stream:
            yield running


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def is_refused(response: httpx.Response, scope: str) -> bool:
    """Whether this is the 403 of RFC 6750 for a missing right."""
    challenge = f'Bearer realm="gridcast", error="insufficient_scope", scope="{scope}"'
    return response.status_code == 403 and response.headers["www-authenticate"] == challenge


def test_without_a_token_nothing_is_answered(services: Services) -> None:
    for response in (
        services.put("team-a/x.txt", {}),
        services.stream.get("/files/team-a/x.txt"),
        services.stream.get("/file"),
        services.stream.head("/file/stream?filename=x.txt"),
    ):
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == 'Bearer realm="gridcast"'
        assert "x-request-id" in response.headers
    assert services.stream.get("/livez").status_code == 200
    assert services.upload.options("/file/tus").status_code == 204


def test_a_body_is_not_asked_for(services: Services) -> None:
    """With Expect: 100-continue the answer is final, and the connection is closed."""
    url = services.upload.base_url
    with socket.create_connection((url.host, url.port or 0), 10) as connection:
        connection.sendall(
            b"PUT /files/a/big.bin HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000000000\r\nexpect: 100-continue\r\n\r\n"
        )
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 401 ")
    assert b"100 Continue" not in received
    assert b"connection: close" in received.lower()


@pytest.mark.parametrize(
    ("scope", "name", "status"),
    [
        ("write:team-a", "team-a/1.txt", 201),
        ("write:team-a", "team-ab/1.txt", 403),
        ("write:team-a", "team-a/x/1.txt", 403),
        ("write:team-a/*", "team-ab/1.txt", 403),
        ("write:team-a/*", "team-a/x/1.txt", 201),
        ("write:team-a/*", "team-a/2.txt", 201),
        ("write:%C3%A9t%C3%A9", "e%CC%81t%C3%A9/1.txt", 201),
        ("read", "team-a/3.txt", 403),
        ("write:", "top.txt", 201),
        ("write", "any/1.txt", 201),
    ],
)
def test_folders_of_a_scope(services: Services, scope: str, name: str, status: int) -> None:
    assert services.put(name, authorized(scope)).status_code == status


def test_a_file_is_read_and_deleted_by_rights_of_its_folder(services: Services) -> None:
    assert services.put("films/a.txt", authorized("write:films")).status_code == 201
    for path in (
        "/files/films/a.txt",
        "/file/stream?folder=films&filename=a.txt",
        "/file/info?folder=films&filename=a.txt",
    ):
        for _ in range(3):  # the first answer fills the cache, from which the fast path answers the others
            assert services.stream.get(path, headers=authorized("read:films")).status_code == 200
            assert services.stream.head(path, headers=authorized("read:films")).status_code == 200
            assert is_refused(services.stream.get(path, headers=authorized("read:other")), "read:films")
            assert is_refused(services.stream.get(path, headers=authorized("write:films")), "read")
            assert services.stream.get(path).status_code == 401
            assert services.stream.get(path, headers=bearer(token("a", "read", OTHER_SECRET))).status_code == 401
    assert is_refused(services.upload.delete("/files/films/a.txt", headers=authorized("read write")), "delete")
    assert services.upload.delete("/files/films/a.txt", headers=authorized("delete:films")).status_code == 204


def test_what_does_not_exist_is_refused_alike(services: Services) -> None:
    for name in ("films/nothing.txt", "films/a/b.txt"):
        response = services.stream.get(f"/files/{name}", headers=authorized("read:other"))
        assert response.status_code == 403


def test_two_credentials_and_other_schemes(services: Services) -> None:
    value = f"Bearer {token('a', 'read')}"
    doubled = [("authorization", value), ("authorization", value)]
    assert services.stream.get("/file", headers=doubled).status_code == 400
    assert services.stream.get("/file", headers={"authorization": "Basic YTpi"}).status_code == 401
    assert services.stream.get("/file", headers={"authorization": value.replace("Bearer", "bearer")}).status_code == 200
    assert services.stream.get(f"/file?access_token={value.split()[1]}").status_code == 401
    refused = services.stream.get("/file", headers={"authorization": f"{value}x"})
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_a_header_of_ours_is_no_identity(services: Services) -> None:
    headers = {"x-gridcast-subject": "admin", "gridcast.identity": "admin", "x-user": "admin", "x-remote-user": "admin"}
    assert services.stream.get("/file", headers=headers).status_code == 401


def test_lists_show_what_may_be_read_and_their_pages_are_full(services: Services) -> None:
    admin = authorized("admin")
    folders = ("pages", "pages/deep", "pagesx", "hidden", "pages0")
    for number in range(5):
        for folder in folders:
            assert services.put(f"{folder}/{number}.txt", admin).status_code == 201
    headers = authorized("read:pages/* read:pagesx")
    seen: list[tuple[str, str]] = []
    after = ""
    while True:
        page = services.stream.get(f"/file?limit=4{after}", headers=headers).json()
        seen += [(file["folder"], file["filename"]) for file in page["files"]]
        if page["next"] is None:
            break
        assert len(page["files"]) == 4
        after = f"&after={page['next']}"
    assert sorted(seen) == sorted(
        (folder, f"{n}.txt") for folder in ("pages", "pages/deep", "pagesx") for n in range(5)
    )
    found = services.stream.get("/file/folders?limit=2", headers=headers).json()
    assert found["folders"] == ["pages", "pages/deep"]
    rest = services.stream.get(f"/file/folders?limit=2&after={found['next']}", headers=headers).json()
    assert (rest["folders"], rest["next"]) == (["pagesx"], None)
    assert is_refused(services.stream.get("/file?folder=hidden", headers=headers), "read:hidden")
    assert len(services.stream.get("/file?folder=pagesx&q=3", headers=headers).json()["files"]) == 1
    assert {f["folder"] for f in services.stream.get("/file?q=3.txt", headers=headers).json()["files"]} == {
        "pages",
        "pages/deep",
        "pagesx",
    }
    assert is_refused(services.stream.get("/file", headers=authorized("write")), "read")


def test_a_form_of_a_limited_token_names_its_folder_in_the_query(services: Services) -> None:
    def post(query: str, scope: str, folder: str = "forms") -> httpx.Response:
        return services.upload.post(
            f"/file/upload{query}",
            data={"folder": folder},
            files={"file": (f"{len(scope)}{len(query)}.txt", b"x")},
            headers=authorized(scope),
        )

    late = post("", "write:forms")
    assert (late.status_code, "?folder=" in late.json()["detail"]) == (400, True)
    assert post("?folder=forms", "write:forms").status_code == 201
    assert post("?folder=forms", "write:forms", "other").status_code == 400
    assert post("?folder=other", "write:forms", "other").status_code == 403
    assert post("", "write").status_code == 201
    assert post("", "read").status_code == 403


def test_a_tus_upload_needs_the_folder_of_its_metadata(services: Services) -> None:
    assert services.create(authorized("write:tus"), metadata(filename="a.txt", folder="tus")).status_code == 201
    assert is_refused(services.create(authorized("write:tus"), metadata(filename="a.txt", folder="o")), "write:o")
    assert is_refused(services.create(authorized("write:tus"), metadata(filename="a.txt")), "write:")
    assert services.create(authorized("write:tus"), "", **{"upload-concat": "partial"}).status_code == 201
    assert services.create(authorized("read"), "", **{"upload-concat": "partial"}).status_code == 403
    doubled = [*TUS.items(), *authorized("write:tus").items(), ("upload-length", "4")]
    doubled += [("upload-metadata", metadata(filename="a", folder=folder)) for folder in ("tus", "other")]
    assert services.upload.post("/file/tus", headers=doubled).status_code == 400


def same_answer(one: httpx.Response, other: httpx.Response) -> bool:
    """Whether two responses do not differ, but for the request's id and its date."""
    varying = {"x-request-id", "date"}
    left, right = ({k: v for k, v in r.headers.items() if k not in varying} for r in (one, other))
    return (one.status_code, one.content, left) == (other.status_code, other.content, right)


def test_the_upload_of_another_does_not_exist(services: Services) -> None:
    alice, bob = authorized("write", "alice"), authorized("write", "bob")
    location = services.create(alice, metadata(filename="mine.txt", folder="own")).headers["location"]
    last = location[-1]
    unknown = location[:-1] + ("0" if last != "0" else "1")
    part = services.create(alice, "", **{"upload-concat": "partial"}).headers["location"]
    services.upload.patch(part, content=b"part", headers={**TUS, **OFFSET, **alice})
    unknown_part = part[:-1] + ("0" if part[-1] != "0" else "1")

    def requests(path: str, headers: dict[str, str]) -> list[httpx.Response]:
        tus = {**TUS, **headers}
        override = {**tus, "x-http-method-override": "DELETE"}
        return [
            services.upload.head(path, headers=tus),
            services.upload.patch(path, content=b"evil", headers={**tus, **OFFSET}),
            services.upload.post(path, headers=override),
            services.upload.post(path, content=b"evil", headers={**tus, **OFFSET, "x-http-method-override": "PATCH"}),
            services.upload.delete(path, headers=tus),
        ]

    for hidden, missing in zip(requests(location, bob), requests(unknown, bob), strict=True):
        assert hidden.status_code == 404
        assert same_answer(hidden, missing)

    def final(path: str, headers: dict[str, str], name: str = "joined.txt") -> httpx.Response:
        fields = {**TUS, **headers, "upload-concat": f"final;{path}", "upload-metadata": metadata(filename=name)}
        return services.upload.post("/file/tus", headers=fields)

    for name in ("joined.txt", "a/b"):
        hidden, missing = final(part, bob, name), final(unknown_part, bob, name)
        assert hidden.status_code == missing.status_code == 400
        assert hidden.content.replace(part[-24:].encode(), b"") == missing.content.replace(
            unknown_part[-24:].encode(), b""
        )
    assert services.upload.head(location, headers={**TUS, **alice}).headers["upload-offset"] == "0"
    assert final(part, alice).status_code == 201
    assert services.upload.head(location, headers={**TUS, **authorized("admin", "root")}).status_code == 200
    lost = services.upload.patch(location, content=b"text", headers={**TUS, **OFFSET, **authorized("write:other")})
    assert is_refused(lost, "write:own")
    done = services.upload.patch(location, content=b"text", headers={**TUS, **OFFSET, **alice})
    assert done.status_code == 204
    assert services.upload.head(location, headers={**TUS, **bob}).status_code == 404
    assert services.upload.head(location, headers={**TUS, **alice}).status_code == 200


def test_progress_to_the_socket_of_another_needs_push(services: Services) -> None:
    sid = "A" * 52
    alice = authorized("write")
    assert is_refused(services.put(f"sids/a.txt?sid={sid}", alice), "push")
    assert is_refused(services.create(alice, metadata(filename="b.txt", sid=sid)), "push")
    form = {"data": {"sid": sid}, "files": {"file": ("c.txt", b"x")}, "headers": alice}
    assert is_refused(services.upload.post("/file/upload?folder=sids", **form), "push")  # type: ignore[arg-type]
    both = authorized("write push")
    assert services.put(f"sids/a.txt?sid={sid}", both).status_code == 201


def test_no_token_and_no_secret_is_in_a_log(services: Services) -> None:
    """Last of this module: after requests of every kind, refused and answered."""
    value = token("alice", "read write")
    for headers in (bearer(value), bearer(f"{value}x"), {"authorization": f"Basic {value}"}):
        services.stream.get(f"/file?access_token={value}", headers=headers)
        services.put("logs/a.txt", headers)
    for process in services.processes:
        signature = value.rpartition(".")[2]
        assert "/file" in process.log
        assert not any(text in process.log for text in (value, signature, SECRET))


def test_unknown_paths_and_methods(services: Services) -> None:
    assert services.stream.get("/nothing").status_code == 404
    assert services.stream.post("/file").status_code == 405
    assert services.stream.get("/FILE").status_code == 404
    assert services.stream.get("/%66iles/a/b").status_code in {400, 401}


def test_a_move_deletes_at_its_source_and_writes_at_its_target(services: Services) -> None:
    admin = bearer(token("root", "admin"))
    services.put("team-a/m.txt", admin)

    def move(scope: str, folder: str) -> httpx.Response:
        query = "/file?folder=team-a&filename=m.txt"
        return services.upload.patch(query, json={"folder": folder}, headers=bearer(token("alice", scope)))

    assert is_refused(move("delete:team-b write:team-b", "team-b"), "delete:team-a")
    assert is_refused(move("delete:team-a read:team-b write:team-a", "team-b"), "write:team-b")
    assert is_refused(move("read write", "team-b"), "delete")
    moved = move("delete:team-a write:team-b", "team-b")
    assert (moved.status_code, moved.json()["folder"]) == (200, "team-b")


def test_restoring_needs_the_right_to_write(services: Services) -> None:
    admin = bearer(token("root", "admin"))
    services.put("team-a/r.txt", admin)
    services.upload.delete("/files/team-a/r.txt", headers=admin)
    for scope, status in (("delete:team-a read", 403), ("write:team-b", 403), ("write:team-a", 200)):
        headers = bearer(token("alice", scope))
        response = services.upload.post("/file/restore?folder=team-a&filename=r.txt", headers=headers)
        assert response.status_code == status


def test_a_batch_is_judged_item_by_item(services: Services) -> None:
    admin = bearer(token("root", "admin"))
    for folder in ("team-a", "team-b"):
        services.put(f"{folder}/d.txt", admin)
    files = [{"folder": folder, "filename": "d.txt"} for folder in ("team-b", "team-a")]
    headers = bearer(token("alice", "delete:team-a"))
    response = services.upload.post("/file/delete", json={"files": files}, headers=headers)
    assert [one["status"] for one in response.json()["results"]] == [403, 204]
    assert services.stream.get("/files/team-b/d.txt", headers=admin).status_code == 200
    refused = services.upload.post("/file/delete", json={"files": files}, headers=bearer(token("alice", "write")))
    assert is_refused(refused, "delete")
