"""The handles that the next request of an upload goes on with."""

from datetime import UTC, datetime

from services.common.store.upload_store import InProgressUpload, UploadHandle
from services.upload.tus.handle_cache import MAX_HANDLES, HandleCache

STATE = InProgressUpload(None, 0, b"", None, {}, datetime.now(UTC), write_in_progress=False)


def make_handle(name: str) -> UploadHandle:
    return UploadHandle(name, None, 1, "")


def test_a_handle_is_used_once() -> None:
    cache = HandleCache(60)
    cache.put(make_handle("a"), STATE)
    assert cache.get("a") == (make_handle("a"), STATE)
    assert cache.pop("a") == (make_handle("a"), STATE)
    assert cache.get("a") is None


def test_an_old_handle_is_not_used() -> None:
    cache = HandleCache(0)
    cache.put(make_handle("a"), STATE)
    assert cache.get("a") is None
    assert cache.pop("a") is None


def test_the_oldest_handles_are_dropped() -> None:
    cache = HandleCache(60)
    cache.put(make_handle("0"), STATE)
    for number in range(1, MAX_HANDLES):
        cache.put(make_handle(str(number)), STATE)
    cache.put(make_handle("0"), STATE)
    cache.put(make_handle("new"), STATE)
    assert cache.get("1") is None
    assert cache.get("0") is not None
