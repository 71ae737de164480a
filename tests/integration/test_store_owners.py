"""The contract of every store about whose an upload and a file is, and about the secret in an upload's id."""

import pytest

from services.common.store.upload_store import FinishedUpload, InProgressUpload
from tests.support.store_adapters import NAME, StoreAdapters, finished_upload, new_tus_upload

pytestmark = pytest.mark.anyio


def other_ids(upload_id: str) -> list[str]:
    """Ids of the same entry with another secret, or none."""
    entry, _, secret = upload_id.rpartition("-")
    changed = f"{int(secret, 16) ^ 1:032x}"
    return [entry, f"{entry}-", f"{entry}-{changed}", f"{entry}-{'0' * 32}", f"{entry}-{secret.upper()}x"]


async def test_an_upload_is_found_by_its_whole_id_only(adapters: StoreAdapters) -> None:
    store = adapters.store
    upload = await store.create_upload(NAME, new_tus_upload(""))
    for other in other_ids(upload.upload_id):
        assert await store.get_info(other) is None
        assert await store.get_durable_info(other) is None
        assert await store.acquire(other) is None
    await store.renew_lease(upload)  # none of them has acquired it
    taken = await store.acquire(upload.upload_id)
    assert isinstance(taken, tuple)
    assert taken[0].upload_id == upload.upload_id
    assert isinstance(await store.get_info(upload.upload_id), InProgressUpload)
    await store.commit(taken[0], finished_upload(b""))
    assert isinstance(await store.get_durable_info(upload.upload_id), FinishedUpload)
    for other in other_ids(upload.upload_id):
        assert await store.get_info(other) is None
        assert await store.acquire(other) is None


async def test_uploads_begun_before_there_were_secrets_go_on(adapters: StoreAdapters) -> None:
    store = adapters.store
    upload = await store.create_upload(NAME, new_tus_upload(""))
    old_id = upload.upload_id.rpartition("-")[0]
    adapters.inspector.forget_secrets()
    assert await store.get_info(upload.upload_id) is None
    assert isinstance(await store.get_info(old_id), InProgressUpload)
    taken = await store.acquire(old_id)
    assert isinstance(taken, tuple)
    assert taken[0].upload_id == old_id
    await store.commit(taken[0], finished_upload(b""))
    assert isinstance(await store.get_durable_info(old_id), FinishedUpload)
    assert await store.get_info(upload.upload_id) is None
