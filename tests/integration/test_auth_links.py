"""Signed links on running services: what they open and what not, ends, versions, revocation under load, uploads by tus clients."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import count
from typing import Any

import httpx
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from services.common.auth.key_ring import parse_key_ring
from services.common.auth.signed_links import Link, LinkSigner
from services.common.media import MediaName
from tests.support.databases import ServerProcess, storage_env
from tests.support.processes import ServiceProcess, run_service
from tests.support.redis_commands import send_redis_commands
from tests.support.sizes import MIB
from tests.support.tokens import AUTH_ENV, OTHER_SECRET, SECRET, authorized
from tests.support.waiting import eventually

SIGNER = LinkSigner(parse_key_ring(f"k1 {SECRET}"))
REPLICAS = 3
PLAYERS = 100
_names = count()


@dataclass(frozen=True)
class Services:
    """An upload service, three stream services, and a gateway before the first of each."""

    upload: ServiceProcess
    streams: list[ServiceProcess]
    gateway: ServiceProcess
    redis: ServerProcess
    http: httpx.Client

    @property
    def stream(self) -> ServiceProcess:
        return self.streams[0]

    def put(self, name: str, content: bytes = b"0123456789", folder: str = "l") -> str:
        path = f"/files/{folder}/{name}"
        stored = self.http.put(f"{self.upload.url}{path}", content=content, headers=authorized("write"), timeout=60)
        assert stored.status_code in {200, 201}
        return path

    def new_file(self, content: bytes = b"0123456789") -> str:
        path = self.put(f"{next(_names)}.txt", content)
        return path.rpartition("/")[2]

    def make(self, subject: str = "alice", scope: str = "link read write", **options: Any) -> dict[str, Any]:
        made = self.ask({"links": [{"folder": "l", **options}]}, authorized(scope, subject))
        assert made.status_code == 201, made.text
        assert made.headers["cache-control"] == "no-store"
        link: dict[str, Any] = made.json()["links"][0]
        return link

    def ask(self, body: Any, headers: dict[str, str]) -> httpx.Response:
        return self.http.post(f"{self.upload.url}/file/link", json=body, headers=headers)

    def everywhere(self, link: dict[str, Any]) -> set[int]:
        return {self.http.get(f"{stream.url}{link['url']}").status_code for stream in self.streams}

    def get(self, url: str, **options: Any) -> httpx.Response:
        return self.http.get(f"{self.stream.url}{url}", **options)


@pytest.fixture(scope="module")
def services(
    tmp_path_factory: pytest.TempPathFactory, mongod: ServerProcess, redis_server: ServerProcess
) -> Iterator[Services]:
    logs = tmp_path_factory.mktemp("links")
    env = storage_env(mongod, redis_server.url, "auth_links", **AUTH_ENV)
    with (
        run_service("services.upload", logs, env) as upload,
        run_service("services.stream", logs, env) as one,
        run_service("services.stream", logs, env) as two,
        run_service("services.stream", logs, env) as three,
        run_service("services.socket", logs, env) as sockets,
        run_service(
            "gateway",
            logs,
            {
                "GRIDCAST_UPLOAD_URLS": upload.url,
                "GRIDCAST_STREAM_URLS": one.url,
                "GRIDCAST_SOCKET_URLS": sockets.url,
                "GRIDCAST_LIVE_URLS": sockets.url,  # gets no request; named so that the gateway becomes ready
                "GRIDCAST_AUTH": "hs256",
            },
        ) as gateway,
        httpx.Client(timeout=30) as http,
    ):
        yield Services(upload, [one, two, three], gateway, redis_server, http)


def refused(response: httpx.Response, reason: str) -> bool:
    assert response.status_code == 403, response.text
    assert reason in response.json()["detail"], response.text
    return True


def test_a_link_reads_one_file(services: Services) -> None:
    name = services.new_file()
    link = services.make(filename=name)
    url, parameter = link["url"], {"filename": name, "folder": "l", "link": link["link"]}
    for _ in range(3):  # the later ones from memory, on the fast path
        got = services.get(url)
        assert (got.status_code, got.content) == (200, b"0123456789")
        assert sorted(got.headers.get_list("cache-control", split_commas=True)) == ["no-cache", "private"]
        assert got.headers["referrer-policy"] == "no-referrer"
    part = services.get(url, headers={"range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    assert services.get(url, headers={"if-none-match": got.headers["etag"]}).status_code == 304
    assert services.http.head(f"{services.stream.url}{url}").status_code == 200
    assert services.get("/file/stream", params=parameter).content == b"0123456789"
    assert services.http.get(f"{services.gateway.url}{url}").content == b"0123456789"
    assert 6 * 3600 - 60 < link["expires_at"] - time.time() <= 6 * 3600


def test_a_link_opens_nothing_else(services: Services) -> None:
    name, other = services.new_file(), services.new_file()
    link = services.make(filename=name)
    text = link["link"]
    other_file, other_route = "it is for another file", "it is not for this route"
    for method, service, path, reason in (
        ("GET", services.stream, f"/files/l/{other}", other_file),
        ("GET", services.stream, f"/files/l2/{name}", other_file),
        ("GET", services.stream, f"/file/stream?filename={name}&folder=", other_file),
        ("GET", services.stream, f"/file/info?filename={name}&folder=l", other_route),
        ("GET", services.stream, "/file", other_route),
        ("GET", services.stream, "/file/folders", other_route),
        ("PUT", services.upload, f"/files/l/{name}", other_route),
        ("DELETE", services.upload, f"/files/l/{name}", other_route),
        ("POST", services.upload, "/file/link", other_route),
        ("DELETE", services.upload, f"/file/link/{link['id']}", other_route),
        ("POST", services.upload, "/auth/revocations", other_route),
        ("POST", services.upload, "/file/tus", other_route),
    ):
        address = f"{service.url}{path}{'&' if '?' in path else '?'}link={text}"
        assert refused(services.http.request(method, address), reason)
    assert services.get(f"/files/l/{name}", headers=authorized("read")).content == b"0123456789"


def test_two_credentials_are_refused(services: Services) -> None:
    link = services.make(filename=services.new_file())
    assert services.get(link["url"], headers=authorized("read")).status_code == 400
    assert services.get(f"{link['url']}&link={link['link']}").status_code == 400


def test_late_retired_and_foreign_links(services: Services) -> None:
    name = services.new_file()

    def signed(signer: LinkSigner, expires_at: float) -> httpx.Response:
        link = Link(signer.new_id("alice"), "get", MediaName("l", name), expires_at, "alice", time.time())
        return services.get(f"/files/l/{name}?link={signer.sign(link)}")

    assert signed(SIGNER, time.time() + 60).status_code == 200
    assert refused(signed(SIGNER, time.time() - 1), "it has expired")
    for ring in (
        f"k1 {OTHER_SECRET}",
        f"k2 {SECRET}",
    ):  # a wrong secret, an unknown kid: also of late ones no more is said
        for end in (60, -60):
            assert refused(signed(LinkSigner(parse_key_ring(ring)), time.time() + end), "no key of this server")
    text = services.make(filename=name)["link"]
    assert refused(services.get(f"/files/l/{name}?link={text[:-2]}AA"), "no key of this server")
    assert refused(services.get(f"/files/l/{name}?link="), "no key of this server")


def test_a_link_is_for_one_version(services: Services) -> None:
    name = services.new_file()
    bound, following = services.make(filename=name), services.make(filename=name, follow=True)
    assert services.get(bound["url"]).status_code == services.get(following["url"]).status_code == 200
    services.put(name, b"another version")
    eventually(lambda: services.get(following["url"]).content == b"another version", 3)
    assert refused(services.get(bound["url"]), "its file was replaced")
    assert refused(services.get(bound["url"], headers={"cache-control": "no-cache"}), "its file was replaced")
    services.http.delete(f"{services.upload.url}/files/l/{name}", headers=authorized("delete")).raise_for_status()
    eventually(lambda: services.get(following["url"]).status_code == 404, 3)
    assert refused(services.get(bound["url"]), "its file was deleted")


def test_a_link_covers_the_poster(services: Services) -> None:
    name = services.new_file()
    where = {"folder": "l", "filename": name}
    gif = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
    address = f"{services.upload.url}/file/poster"
    services.http.put(address, params=where, content=gif, headers=authorized("write")).raise_for_status()
    link, other = services.make(filename=name), services.make(filename=services.new_file())

    def poster(one: dict[str, Any]) -> httpx.Response:
        return services.get("/file/poster", params={**where, "link": one["link"]})

    assert poster(link).content == gif
    assert refused(poster(other), "it is for another file")
    assert services.http.put(address, params={**where, "link": link["link"]}, content=gif).status_code == 403
    services.put(name, b"another version")
    eventually(lambda: poster(link).status_code == 403, 3)
    assert refused(poster(link), "its file was replaced")
    services.http.delete(f"{services.upload.url}/files/l/{name}", headers=authorized("delete")).raise_for_status()
    eventually(lambda: "its file was deleted" in poster(link).text, 3)


def test_who_may_make_links(services: Services) -> None:
    name = services.new_file()
    one = {"folder": "l", "filename": name}
    for scope, kind, status in (
        ("link:l read:l", "get", 201),
        ("admin", "get", 201),
        ("read:l", "get", 403),
        ("link:l", "get", 403),
        ("link:other read", "get", 403),
        ("link:l read:l", "put", 403),
        ("link:l write:l", "put", 201),
    ):
        assert services.ask({"links": [{**one, "kind": kind}]}, authorized(scope)).status_code == status, scope
    headers = authorized("link read write")
    assert services.ask({"links": [one]}, {}).status_code == 401
    many = services.ask({"links": [one] * 100}, headers).json()["links"]
    assert len({link["id"] for link in many}) == 100
    assert services.ask({"links": [one, {"folder": "l", "filename": "none"}]}, headers).status_code == 404
    bodies: list[dict[str, Any]] = [
        {},
        {"links": []},
        {"links": [one] * 101},
        {"links": [{**one, "expires_in": 7 * 86400 + 1}]},
        {"links": [{**one, "expires_in": 0}]},
        {"links": [{**one, "max_size": 5}]},
        {"links": [{**one, "kind": "put", "follow": True}]},
        {"links": [{**one, "kind": "put", "media_types": ["video"]}]},
        {"links": [{**one, "folder": "../x"}]},
        {"links": [{**one, "subject": "bob"}]},
        {"links": {"$ne": 1}},
    ]
    for bad in bodies:
        assert services.ask(bad, headers).status_code == 400, bad


def test_a_link_is_prolonged_and_revoked_by_its_issuer(services: Services) -> None:
    link = services.make(filename=services.new_file(), expires_in=2)
    address = f"{services.upload.url}/file/link/{link['id']}"
    body = {"link": link["link"], "expires_in": 3600}
    assert services.http.patch(address, json=body, headers=authorized("link read", "bob")).status_code == 404
    assert services.http.delete(address, headers=authorized("link read", "bob")).status_code == 404
    assert services.http.patch(address, json=body, headers=authorized("link read:other")).status_code == 403
    other = services.make(filename=services.new_file())
    assert (
        services.http.patch(address, json={"link": other["link"]}, headers=authorized("link read")).status_code == 400
    )
    eventually(lambda: services.get(link["url"]).status_code == 403, 5)
    assert refused(services.get(link["url"]), "it has expired")
    prolonged = services.http.patch(address, json=body, headers=authorized("link read"))
    assert prolonged.status_code == 200, prolonged.text
    assert (prolonged.json()["url"], prolonged.json()["link"]) == (link["url"], link["link"])
    assert prolonged.json()["expires_at"] > time.time() + 3500
    eventually(lambda: services.everywhere(link) == {200}, 2)
    assert services.http.delete(address, headers=authorized("link")).status_code == 204
    assert services.http.delete(address, headers=authorized("admin", "root")).status_code == 204
    eventually(lambda: services.everywhere(link) == {403}, 2)
    assert refused(services.get(link["url"]), "it was revoked")
    assert refused(services.http.patch(address, json=body, headers=authorized("link read")), "it was revoked")
    assert services.get(other["url"]).status_code == 200
    assert services.http.delete(f"{services.upload.url}/file/link/none", headers=authorized("link")).status_code == 404


def test_a_link_falls_with_its_issuer(services: Services) -> None:
    name = services.new_file()
    by_token = services.ask({"links": [{"folder": "l", "filename": name}]}, authorized("link read", "gina", jti="g1"))
    (link,) = by_token.json()["links"]
    again = services.make("gina", filename=name)
    assert services.get(link["url"]).status_code == services.get(again["url"]).status_code == 200
    revoke = f"{services.upload.url}/auth/revocations"
    done = services.http.post(revoke, json={"token_id": "g1"}, headers=authorized("admin", "root"))
    assert done.json()["until"] > time.time() + 7 * 86400, "a link outlives the token that made it"
    eventually(lambda: services.get(link["url"]).status_code == 403, 2)
    assert services.get(again["url"]).status_code == 200
    services.http.post(revoke, json={"subject": "gina"}, headers=authorized("admin", "root"))
    eventually(lambda: services.get(again["url"]).status_code == 403, 2)
    assert refused(services.get(again["url"]), "its issuer was revoked")


async def play(address: str, url: str, size: int, revoked: asyncio.Event, playing: asyncio.Semaphore) -> float:
    """Read a file as a player does, a piece at a time. Returns when its connection ended before the file did."""
    host, _, port = address.removeprefix("http://").partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)  # little is on its way when it is cut
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    reader, writer = await asyncio.open_connection(sock=connection, limit=64 * 1024)
    writer.write(f"GET {url} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    playing.release()
    received = 0
    try:
        while piece := await reader.read(16 * 1024):
            received += len(piece)
            if not revoked.is_set():
                await asyncio.sleep(0.5)  # paces a player: nothing is waited for
    except ConnectionError:
        pass
    assert received < size
    writer.close()
    return time.monotonic()


def test_a_hundred_players_are_cut_within_two_seconds(services: Services) -> None:
    size = 64 * MIB
    name = services.new_file(bytes(size))
    link, kept = services.make(filename=name), services.make(filename=name)

    async def run() -> list[float]:
        revoked, playing = asyncio.Event(), asyncio.Semaphore(0)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            players = [
                group.create_task(play(services.streams[number % REPLICAS].url, link["url"], size, revoked, playing))
                for number in range(PLAYERS)
            ]
            for _ in players:
                await playing.acquire()
            assert not any(player.done() for player in players)
            async with httpx.AsyncClient() as client:
                answer = await client.delete(
                    f"{services.upload.url}/file/link/{link['id']}", headers=authorized("link")
                )
            assert answer.status_code == 204
            answered = time.monotonic()
            revoked.set()
        return [player.result() - answered for player in players]

    late = sorted(asyncio.run(run()))
    assert len(late) == PLAYERS
    assert late[-1] <= 2.0, late[-5:]
    for stream in services.streams:
        assert refused(services.http.get(f"{stream.url}{link['url']}"), "it was revoked")
        assert services.http.get(f"{stream.url}{kept['url']}", headers={"range": "bytes=0-9"}).status_code == 206


def test_a_revoked_link_stays_revoked_after_redis_was_emptied(services: Services) -> None:
    link = services.make(filename=services.new_file())
    services.http.delete(f"{services.upload.url}/file/link/{link['id']}", headers=authorized("link")).raise_for_status()
    eventually(lambda: services.get(link["url"]).status_code == 403, 2)
    send_redis_commands(services.redis.port, "FLUSHALL")
    ended = time.monotonic() + 2.5
    while time.monotonic() < ended:
        assert refused(services.get(link["url"]), "it was revoked")
        time.sleep(0.1)  # samples the window in which the pollers read again


TUS = {"tus-resumable": "1.0.0"}


def begin(services: Services, link: dict[str, Any], length: int = 3, **metadata: str) -> httpx.Response:
    pairs = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in metadata.items())
    fields = {**TUS, "upload-length": str(length), **({"upload-metadata": pairs} if pairs else {})}
    return services.http.post(f"{services.upload.url}{link['url']}", headers=fields)


def test_a_plain_tus_client_uploads_by_a_link(services: Services) -> None:
    """Tuspy knows nothing of links: it is given an address, and goes on with the one it is told."""
    content = b"0123456789" * 100
    link = services.make(filename="clip.txt", kind="put", max_size=1000, media_types=["text/*"])
    address = f"{services.gateway.url}{link['url']}"
    uploader = TusClient(address).uploader(
        file_stream=BytesIO(content), chunk_size=300, metadata={"filename": "clip.txt"}
    )
    uploader.upload_chunk()  # type: ignore[no-untyped-call]
    resumed = TusClient(address).uploader(file_stream=BytesIO(content), chunk_size=300, url=uploader.url)
    assert resumed.offset == 300
    resumed.upload()
    stored = services.get("/files/l/clip.txt", headers=authorized("read"))
    assert stored.content == content
    with pytest.raises(TusCommunicationError) as caught:
        TusClient(address).uploader(file_stream=BytesIO(content), metadata={"filename": "clip.txt"}).upload()
    assert caught.value.status_code == 409


def test_what_a_link_allows_of_an_upload(services: Services) -> None:
    link = services.make(filename="up.txt", kind="put", max_size=3, media_types=["text/*"])
    assert begin(services, link, 4).status_code == 413
    assert begin(services, link, 3, filetype="video/mp4").status_code == 415
    assert refused(begin(services, link, filename="other.txt"), "it is for another file")
    assert refused(begin(services, link, filename="up.txt", folder="m"), "it is for another file")
    deferred = services.http.post(f"{services.upload.url}{link['url']}", headers={**TUS, "upload-defer-length": "1"})
    assert deferred.status_code == 400
    partial = {**TUS, "upload-length": "3", "upload-concat": "partial"}
    assert services.http.post(f"{services.upload.url}{link['url']}", headers=partial).status_code == 400
    services.put("taken.txt")
    taken = services.make(filename="taken.txt", kind="put")
    assert begin(services, taken).status_code == 409
    services.http.delete(f"{services.upload.url}/files/l/taken.txt", headers=authorized("delete"))
    assert begin(services, taken).status_code == 201, "a use of which nothing came is none"
    begun = begin(services, link)  # no name: that of the link
    assert begun.status_code == 201, begun.text
    assert begin(services, link).json()["detail"] == "the link was used already"
    location = f"{services.upload.url}{begun.headers['location']}"
    assert services.http.head(location, headers=TUS).headers["upload-offset"] == "0"
    another = services.make(filename="third.txt", kind="put")
    bare = location.partition("?")[0]
    for foreign in (f"{bare}?link={another['link']}", f"{bare}x?link={link['link']}"):
        assert services.http.head(foreign, headers=TUS).status_code == 404
    assert services.http.head(bare, headers=TUS).status_code == 401
    assert services.http.head(bare, headers=TUS | authorized("write:l", "bob")).status_code == 404
    assert services.http.head(bare, headers=TUS | authorized("write:l", "alice")).status_code == 200, (
        "its issuer owns it"
    )
    patch = {**TUS, "upload-offset": "0", "content-type": "application/offset+octet-stream"}
    assert services.http.patch(location, headers=patch, content=b"abc").status_code == 204
    assert services.get("/files/l/up.txt", headers=authorized("read")).content == b"abc"
    prolong = {"link": link["link"]}
    address = f"{services.upload.url}/file/link/{link['id']}"
    assert services.http.patch(address, json=prolong, headers=authorized("link write")).status_code == 400


def test_uploads_by_links_that_are_late_or_revoked(services: Services) -> None:
    late = Link(SIGNER.new_id("alice"), "put", MediaName("l", "late.txt"), time.time() - 1, "alice", time.time())
    assert refused(begin(services, {"url": f"/file/tus?link={SIGNER.sign(late)}"}), "it has expired")
    link = services.make(filename="cut.txt", kind="put")
    location = begin(services, link, 10).headers["location"]
    services.http.delete(f"{services.upload.url}/file/link/{link['id']}", headers=authorized("link")).raise_for_status()
    patch = {**TUS, "upload-offset": "0", "content-type": "application/offset+octet-stream"}
    assert refused(
        services.http.patch(f"{services.upload.url}{location}", headers=patch, content=b"0123456789"), "it was revoked"
    )


def test_only_one_of_many_uses_a_link(services: Services) -> None:
    async def run(link: dict[str, Any]) -> list[int]:
        async with httpx.AsyncClient(base_url=services.upload.url) as client:
            fields = {**TUS, "upload-length": "3"}
            answers = await asyncio.gather(*(client.post(link["url"], headers=fields) for _ in range(10)))
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(run(services.make(filename="once.txt", kind="put"))) == [201] + [409] * 9


def test_no_link_is_in_a_log(services: Services) -> None:
    """After all that was done above: in no line of any process, whole or in part."""
    link = services.make(filename=services.new_file())
    wrong = link["link"][:-4] + "AAAA"
    for base in (services.gateway.url, services.stream.url):
        for url in (link["url"], link["url"].replace(link["link"], wrong), f"{link['url']}&range=%FF"):
            services.http.get(f"{base}{url}")
    body = {"link": "v1.k1." + "A" * 5000}
    refusal = services.http.patch(f"{services.gateway.url}/file/link/x", json=body, headers=authorized("link"))
    assert refusal.status_code == 400
    assert "AAAA" not in refusal.text
    for process in (services.upload, services.gateway, *services.streams):
        lines = process.log
        assert any("/file" in json.loads(line).get("path", "") for line in lines.splitlines() if line.startswith("{"))
        assert "link=" not in lines
        assert "v1.k1" not in lines


def test_without_authentication_nothing_needs_a_link(upload: ServiceProcess) -> None:
    body = {"links": [{"filename": "x"}]}
    assert httpx.post(f"{upload.url}/file/link", json=body).status_code == 409
    assert httpx.delete(f"{upload.url}/file/link/x").status_code == 409
