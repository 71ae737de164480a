"""services.upload.tus.patch: whether the bytes of a PATCH fit the upload, and repeated requests."""

import hashlib
from datetime import UTC, datetime

import pytest

from services.common.errors import BadRequest, Conflict, ContentTooLarge, Gone, GridcastError
from services.common.media import MediaName
from services.common.store.upload_store import FinishedUpload, InProgressUpload
from services.upload.tus.patch import PatchRequest, lost_upload_error

FIRST_SHA256 = hashlib.sha256(b"1").hexdigest()
FIRST_ETAG = f'"sha256-{FIRST_SHA256}"'
NOW = datetime(2026, 11, 3, 4, 5, 6, tzinfo=UTC)


def make_upload(offset: int, length: int | None) -> InProgressUpload:
    return InProgressUpload(MediaName("", "n"), offset, b"", length, {}, NOW, write_in_progress=False)


@pytest.mark.parametrize(
    ("state", "patch", "error"),
    [
        (make_upload(5, 10), PatchRequest(5, None, 5, ()), None),
        (make_upload(5, 10), PatchRequest(5, None, None, ()), None),
        (make_upload(5, 10), PatchRequest(5, 10, 5, ()), None),
        (make_upload(5, None), PatchRequest(5, 10, 5, ()), None),
        (make_upload(5, None), PatchRequest(5, None, 95, ()), None),
        (make_upload(5, 10), PatchRequest(4, None, 1, ()), Conflict),
        (make_upload(5, 10), PatchRequest(5, None, 6, ()), ContentTooLarge),
        (make_upload(5, None), PatchRequest(5, None, 96, ()), ContentTooLarge),
        (make_upload(5, None), PatchRequest(5, 101, 1, ()), ContentTooLarge),
        (make_upload(5, None), PatchRequest(5, 7, 3, ()), ContentTooLarge),
        (make_upload(5, 10), PatchRequest(5, 11, 1, ()), BadRequest),
        (make_upload(5, None), PatchRequest(5, 4, 0, ()), BadRequest),
    ],
)
def test_bytes_that_fit(state: InProgressUpload, patch: PatchRequest, error: type[GridcastError] | None) -> None:
    if error is None:
        patch.validate(state, 100)
        return
    with pytest.raises(error) as raised:
        patch.validate(state, 100)
    if error is Conflict:
        assert raised.value.headers["upload-offset"] == "5"


def test_repeated_request_replays_its_result() -> None:
    end = FinishedUpload("stored", MediaName("", "n"), 10, FIRST_ETAG, FIRST_SHA256, {}, NOW)
    replayed = PatchRequest(10, None, 0, ()).replay_result(end)
    assert (replayed.etag, replayed.sha256) == (FIRST_ETAG, FIRST_SHA256)
    for patch in (PatchRequest(9, None, 1, ()), PatchRequest(10, None, 1, ())):
        with pytest.raises(Conflict) as raised:
            patch.replay_result(end)
        assert raised.value.headers["upload-offset"] == "10"
    gone = lost_upload_error(MediaName("", "n"))
    assert isinstance(gone, Gone)
    assert gone.detail.startswith("Not Unique: ")
