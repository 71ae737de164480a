"""Names on every way in and out: one normalisation, and the same refusals."""

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


def store(services: MediaServices, way: str, folder: str, filename: str) -> httpx.Response:
    """Store a file of that name on one way in."""
    if way == "form":
        return post_form(
            services.upload, form_body(form_part("file", b"x", filename), form_part("folder", folder.encode()))
        )
    if way == "form with a query":
        query = str(httpx.QueryParams({"folder": folder}))
        return post_form(services.upload, form_body(form_part("file", b"x", filename)), f"?{query}")
    if way == "put":
        return put_file(services.upload, filename, b"x", folder)
    upload = TusUpload(services.upload)
    metadata = {"upload-metadata": tus_metadata(**({"folder": folder} if folder else {}), filename=filename)}
    if way == "tus":
        return upload.create(length=1, content=b"x", headers=metadata)
    assert upload.create(None, length=1, content=b"x", headers={"upload-concat": "partial"}).status_code == 201
    return upload.create(None, length=None, headers={**metadata, "upload-concat": f"final;{upload.path}"})


WAYS_IN = ("form", "form with a query", "put", "tus", "tus concatenation")


@pytest.mark.parametrize("way", WAYS_IN)
def test_direction_marks_are_dropped_on_every_way_in_and_out(media_services: MediaServices, way: str) -> None:
    folder, filename = f"{way}/\u0645", "e\u0301 clip.mp4"
    marked = {"folder": f"\u200e{way}/\u061c\u0645", "filename": "\u200f\u200fe\u200e\u0301 clip.mp4\u200e"}
    created = store(media_services, way, marked["folder"], marked["filename"])
    assert created.status_code == 201, created.text
    stream, upload = media_services.stream.url, media_services.upload.url
    plain = {"folder": folder, "filename": "\u00e9 clip.mp4"}
    for query in (plain, marked, {"folder": folder, "filename": filename}):
        assert httpx.get(f"{stream}/file/stream", params=query).content == b"x"
        assert httpx.head(f"{stream}/file/stream", params=query).status_code == 200
        info = httpx.get(f"{stream}/file/info", params=query).json()
        assert {key: info[key] for key in plain} == plain
    for search in ("\u200fe\u0301 \u200eCLIP", "\u00e9 clip"):
        listed = httpx.get(f"{stream}/file", params={"folder": marked["folder"], "q": search}).json()["files"]
        assert [file["filename"] for file in listed] == [plain["filename"]]
    assert folder in httpx.get(f"{stream}/file/folders").json()["folders"]
    assert httpx.delete(f"{upload}/file/stream", params=marked).status_code == 204
    assert httpx.delete(f"{upload}/file/stream", params=plain).status_code == 404


@pytest.mark.parametrize("way", WAYS_IN)
@pytest.mark.parametrize(
    "character",
    ["\u00ad", "\u034f", "\u115f", "\u2065", "\u206a", "\ufff9", "\U0001d173", "\U000e0041", "\u200d", "\u202e"],
)
def test_invisible_characters_are_refused_on_every_way_in(
    media_services: MediaServices, way: str, character: str
) -> None:
    code = f"U+{ord(character):04X}"
    assert code in expect_problem(store(media_services, way, "", f"a{character}b"), 400)
    assert code in expect_problem(store(media_services, way, f"a{character}b", "a"), 400)


@pytest.mark.parametrize("way", WAYS_IN)
def test_a_mark_hides_no_path_traversal(media_services: MediaServices, way: str) -> None:
    for folder, filename in (
        ("", ".\u200e."),
        ("", "\u200f"),
        ("a/.\u200e./b", "a"),
        ("\u061c", "a"),
        ("a/\u200e", "a"),
    ):
        expect_problem(store(media_services, way, folder, filename), 400)


def test_a_folder_of_older_rules_is_listed_page_by_page(media_services: MediaServices) -> None:
    """Stored before soft hyphens were refused: it is still a position in the list."""
    store(media_services, "put", "old", "a")
    store(media_services, "put", "old+", "a")
    media_services.db["media"].update_one({"folder": "old"}, {"$set": {"folder": "old\u00ad"}})
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = httpx.get(f"{media_services.stream.url}/file/folders", params={"limit": 1, **after})
        assert page.status_code == 200, page.text
        seen += page.json()["folders"]
        if page.json()["next"] is None:
            break
        after = {"after": page.json()["next"]}
    assert {"old\u00ad", "old+"} <= set(seen)
