"""Metadata of a file on every way in, and where it is shown: it belongs to the version, and a replacement has its own."""

import json
from typing import Any

import httpx
import pytest

from tests.support.media_library import MediaServices
from tests.support.upload_client import (
    TusUpload,
    expect_problem,
    form_body,
    form_part,
    post_form,
    put_file,
    tus_metadata,
)


def shown_metadata(services: MediaServices, filename: str) -> Any:
    """The metadata in the info of a file, which is the same in lists."""
    fresh = {"cache-control": "no-cache"}
    info = httpx.get(f"{services.stream.url}/file/info", params={"filename": filename}, headers=fresh)
    assert info.status_code == 200, info.text
    listed = httpx.get(f"{services.stream.url}/file", params={"q": filename, "folder": ""}).json()["files"]
    assert listed == [info.json()]
    return info.json()["metadata"]


WIDGET_FORMS = {
    "none": ([], {}),
    "_charset_": ([form_part("_charset_", b"utf-8")], {}),
    "Uppy": (
        [form_part("relativePath", b"null"), form_part("name", b"v.mp4"), form_part("type", b"video/mp4")],
        {"name": "v.mp4", "type": "video/mp4"},
    ),
    "a submit button": ([form_part("submit", b"Upload")], {}),
    "two submit buttons of one name": ([form_part("Submit", b"a"), form_part("Submit", b"b")], {}),
    "an empty file input": ([form_part("poster", b"", "", "application/octet-stream")], {}),
    "a second empty input of the same name": ([form_part("file", b"", "", "application/octet-stream")], {}),
    "names that are operators elsewhere": (
        [form_part("$set", b"$x"), form_part("a.b[]", b""), form_part("__proto__", "é\r\n".encode())],
        {"$set": "$x", "a.b[]": "", "__proto__": "é\r\n"},
    ),
    "64 keys": ([form_part(f"k{number}", b"v") for number in range(64)], {f"k{number}": "v" for number in range(64)}),
    "15 KiB": ([form_part("k", b"v" * 15 * 1024)], {"k": "v" * 15 * 1024}),
}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(("fields", "metadata"), WIDGET_FORMS.values(), ids=WIDGET_FORMS)
def test_fields_of_forms(
    media_services: MediaServices, fields: list[bytes], metadata: dict[str, str], *, behind: bool
) -> None:
    name = f"form-{behind}-{abs(hash(json.dumps(metadata)))}-{len(fields)}-{len(b''.join(fields))}.mp4"
    file = form_part("file", b"x", name)
    answer = post_form(media_services.upload, form_body(*([file, *fields] if behind else [*fields, file])))
    assert answer.status_code == 201, answer.text
    assert shown_metadata(media_services, name) == metadata


@pytest.mark.parametrize(
    ("keys", "metadata"),
    [
        ({}, {}),
        ({"filetype": "video/webm", "folder": "", "sid": "A"}, {}),
        ({"empty": "", "relativePath": "null", "name": "é"}, {"name": "é", "empty": ""}),
        ({"k": "v" * 15 * 1024}, {"k": "v" * 15 * 1024}),
    ],
)
def test_keys_of_tus(media_services: MediaServices, keys: dict[str, str], metadata: dict[str, str]) -> None:
    """Kept over requests and shown once the file is stored."""
    name = f"tus-{len(metadata)}-{len(keys)}-{len(json.dumps(metadata))}.mp4"
    upload = TusUpload(media_services.upload)
    created = upload.create(length=4, headers={"upload-metadata": tus_metadata(filename=name, **keys)})
    assert created.status_code == 201, created.text
    assert upload.patch(0, b"ab").status_code == 204
    assert upload.head().headers["upload-metadata"] == tus_metadata(filename=name, **keys)
    assert upload.patch(2, b"cd").status_code == 204
    assert shown_metadata(media_services, name) == metadata


def test_a_concatenation_has_the_metadata_of_its_final_upload(media_services: MediaServices) -> None:
    upload = TusUpload(media_services.upload)
    paths = []
    for data in (b"ab", b"cd"):
        fields = {"upload-concat": "partial", "upload-metadata": tus_metadata(title="of a part", only="a part")}
        assert upload.create(None, length=2, content=data, headers=fields).status_code == 201
        paths.append(upload.path)
    fields = {"upload-concat": f"final;{' '.join(paths)}"}
    fields["upload-metadata"] = tus_metadata(filename="joined.mp4", title="of the file")
    assert upload.create(None, length=None, headers=fields).status_code == 201
    assert shown_metadata(media_services, "joined.mp4") == {"title": "of the file"}


def test_a_replacement_has_its_own_metadata(media_services: MediaServices) -> None:
    assert (
        post_form(
            media_services.upload, form_body(form_part("title", b"one"), form_part("file", b"x", "r.mp4"))
        ).status_code
        == 201
    )
    assert shown_metadata(media_services, "r.mp4") == {"title": "one"}
    replaced = put_file(media_services.upload, "r.mp4", b"y")
    assert (replaced.status_code, replaced.json()["metadata"]) == (200, {})
    assert shown_metadata(media_services, "r.mp4") == {}


@pytest.mark.parametrize(
    ("keys", "status"), [({"k": "v" * 16 * 1024}, 413), ({f"k{number}": "v" for number in range(65)}, 413)]
)
def test_too_much_metadata_is_refused_at_the_creation(
    media_services: MediaServices, keys: dict[str, str], status: int
) -> None:
    upload = TusUpload(media_services.upload)
    fields = {"upload-metadata": tus_metadata(filename="big.mp4", **keys)}
    detail = expect_problem(upload.create(length=4, headers=fields), status)
    assert "metadata of a file" in detail
    final = {"upload-concat": "final;/file/tus/x", **fields}
    expect_problem(upload.create(None, length=None, headers=final), status)
