"""`file.playable`: told once to the socket of the uploader, by every way of uploading, and again by the replica that goes on."""

import os
from collections.abc import Iterator

import httpx
import pytest

from services.common.store.play_addresses import make_play_address
from tests.support.fragmented_mp4 import box, fragment, init
from tests.support.processes import ServiceProcess, StartService
from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    TusUpload,
    form_body,
    form_part,
    throttled,
    tus_metadata,
)
from tests.support.uploader_socket import CLIENT_SID, UploaderSocket
from tests.support.waiting import eventually

FTYP = box(b"ftyp", b"isom\x00\x00\x02\x00isomiso2avc1mp41")
MOOV = box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", bytes(3000)))
MDAT = box(b"mdat", os.urandom(3 * CHUNK_SIZE))
INDEX_FIRST, INDEX_LAST = FTYP + MOOV + MDAT, FTYP + MDAT + MOOV
FRAGMENTED = init() + b"".join(fragment(number, 1, fill=CHUNK_SIZE) for number in range(3))


@pytest.fixture
def ear(redis_url: str, upload: ServiceProcess, inspector: MongoInspector) -> Iterator[UploaderSocket]:
    with UploaderSocket.listening(redis_url) as socket:
        yield socket


def send(upload: ServiceProcess, way: str, data: bytes, sid: str | None = CLIENT_SID) -> None:
    """Store `data` as the file `p`."""
    if way == "put":
        query = {"filename": "p"} | ({"sid": sid} if sid else {})
        assert httpx.put(f"{upload.url}/file/stream", params=query, content=data).status_code == 201
    elif way.startswith("form"):
        parts = [form_part("sid", sid.encode())] if sid else []
        parts += [form_part("folder", b"")] if way == "form" else []
        body = form_body(*parts, form_part("file", data, "p"))
        headers = {"content-type": FORM_CONTENT_TYPE}
        assert httpx.post(f"{upload.url}/file/upload", content=body, headers=headers).status_code == 201
    else:
        tus = TusUpload(upload)
        metadata = {"filename": "p"} | ({"sid": sid} if sid else {})
        tus.create(length=len(data), headers={"upload-metadata": tus_metadata(**metadata)})
        assert tus.patch(0, data).status_code == 204


@pytest.mark.parametrize("way", ["put", "form", "form without a folder", "tus"])
def test_an_index_in_front_is_told_once_with_an_address(upload: ServiceProcess, ear: UploaderSocket, way: str) -> None:
    send(upload, way, INDEX_FIRST)
    (told,) = eventually(ear.playable)
    address = told.pop("address")
    assert told == {
        "filename": "p",
        "total": None if way.startswith("form") else len(INDEX_FIRST),
        "content_type": "video/mp4",
        "layout": "index-first",
        "playable": True,
        "reason": None,
        "list": None,
    }
    assert address.startswith("/upload/")
    assert address.endswith("/stream")


@pytest.mark.parametrize(
    ("data", "layout", "reason"),
    [(FRAGMENTED, "fragmented", None), (INDEX_LAST, "index-last", "index at the end")],
    ids=["fragmented", "index-last"],
)
def test_layouts_are_told(
    upload: ServiceProcess, ear: UploaderSocket, data: bytes, layout: str, reason: str | None
) -> None:
    send(upload, "put", data)
    (told,) = eventually(ear.playable)
    assert (told["layout"], told["reason"], told["playable"]) == (layout, reason, reason is None)
    assert (told["address"] is None) is (reason is not None)
    listed = None if layout != "fragmented" else told["address"].replace("/stream", "/media.m3u8")
    assert told["list"] == listed


@pytest.mark.parametrize("way", ["put", "form", "tus"])
def test_without_a_socket_or_a_medium_nothing_is_told(upload: ServiceProcess, ear: UploaderSocket, way: str) -> None:
    send(upload, way, INDEX_FIRST, sid=None)
    httpx.delete(f"{upload.url}/file/stream?filename=p").raise_for_status()
    send(upload, way, b"text " * CHUNK_SIZE)
    assert ear.playable() == []


def test_it_is_told_before_the_upload_has_ended(upload: ServiceProcess, ear: UploaderSocket) -> None:
    """A slow PUT, whose blocks would be stored in one batch at its end."""
    told_at: list[int] = []

    def pieces() -> Iterator[bytes]:
        sent = 0
        for piece in throttled(INDEX_FIRST, len(INDEX_FIRST) // 20, 0.05):
            yield piece
            sent += len(piece)
            if not told_at and ear.playable():
                told_at.append(sent)

    query = {"filename": "p", "sid": CLIENT_SID}
    headers = {"content-length": str(len(INDEX_FIRST))}
    response = httpx.put(f"{upload.url}/file/stream", params=query, content=pieces(), headers=headers, timeout=60)
    assert response.status_code == 201
    assert told_at
    assert told_at[0] < len(INDEX_FIRST)


def test_a_tus_upload_in_many_requests_is_told_once(upload: ServiceProcess, ear: UploaderSocket) -> None:
    tus = TusUpload(upload)
    metadata = {"upload-metadata": tus_metadata(filename="p", sid=CLIENT_SID)}
    tus.create(length=len(INDEX_FIRST), headers=metadata)
    step = CHUNK_SIZE // 3
    for start in range(0, len(INDEX_FIRST), step):
        assert tus.patch(start, INDEX_FIRST[start : start + step]).status_code == 204
    assert len(eventually(ear.playable)) == 1


def test_another_replica_tells_what_a_killed_one_may_not_have_told(
    upload: ServiceProcess, ear: UploaderSocket, start_service: StartService, env: dict[str, str]
) -> None:
    """The address is the same, so a client that has heard it before loses nothing."""
    tus = TusUpload(upload, start_service("services.upload", **env))
    tus.create(length=len(INDEX_FIRST), headers={"upload-metadata": tus_metadata(filename="p", sid=CLIENT_SID)})
    half = 2 * CHUNK_SIZE
    assert tus.patch(0, INDEX_FIRST[:half]).status_code == 204
    (first,) = eventually(ear.playable)
    upload_id = tus.path.rpartition("/")[2]
    assert first["address"] == f"/upload/{make_play_address(upload_id)}/stream"
    assert upload_id not in first["address"]
    assert tus.patch(half, INDEX_FIRST[half : half + 1000], 1).status_code == 204
    assert eventually(lambda: ear.playable()[1:]) == [first]
    assert tus.patch(half + 1000, INDEX_FIRST[half + 1000 :], 1).status_code == 204
    assert len(ear.playable()) == 2
