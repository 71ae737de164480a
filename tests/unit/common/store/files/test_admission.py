"""services.common.store.files.admission: which upload makes room, by table and by properties."""

from hypothesis import given
from hypothesis import strategies as st

from services.common.store.files.admission import Admission, UnfinishedUpload, admit_upload
from services.common.store.limits import MAX_FACTS_BYTES, MAX_IDLE_UPLOADS_PER_CLIENT, MAX_UPLOADS_PER_NAME


def upload(
    number: int, client: str = "a", *, idle: bool = True, has_bytes: bool = False, size: int = 2
) -> UnfinishedUpload:
    return UnfinishedUpload(f"{number:024x}", client, idle, has_bytes, number, size)


def test_there_is_room_for_few_small_uploads() -> None:
    assert admit_upload([], "a", 2, resumable=True) == Admission(fits=True)
    assert admit_upload([upload(1)], "a", MAX_FACTS_BYTES - 2, resumable=True) == Admission(fits=True)


def test_a_client_with_too_many_loses_its_oldest_empty_one() -> None:
    own = [upload(number, has_bytes=number < 3) for number in range(MAX_IDLE_UPLOADS_PER_CLIENT)]
    assert admit_upload(own, "a", 2, resumable=True) == Admission(fits=True, evicted=own[3].id)
    assert admit_upload(own, "a", 2, resumable=False) == Admission(fits=True)
    assert admit_upload(own, "b", 2, resumable=True) == Admission(fits=True)
    with_bytes = [upload(number, has_bytes=True) for number in range(MAX_IDLE_UPLOADS_PER_CLIENT)]
    assert not admit_upload(with_bytes, "a", 2, resumable=True).fits


def test_a_full_name_gives_up_one_of_the_client_with_the_most() -> None:
    clients = "aaab" * (MAX_UPLOADS_PER_NAME // 4)
    many = [upload(number, f"{client}{number % 5}", has_bytes=number % 2 == 0) for number, client in enumerate(clients)]
    chosen = admit_upload(many, "new", 2, resumable=True)
    assert chosen.evicted == next(one.id for one in many if one.client[0] == "a" and not one.has_bytes)
    writing = [upload(number, idle=False) for number in range(MAX_UPLOADS_PER_NAME)]
    assert not admit_upload(writing, "new", 2, resumable=False).fits


def test_the_largest_metadata_give_way_where_they_are_too_many_bytes() -> None:
    some = [upload(1, "a", size=MAX_FACTS_BYTES // 2), upload(2, "a", size=MAX_FACTS_BYTES // 2 - 1), upload(3, "b")]
    assert admit_upload(some, "c", 100, resumable=True).evicted == some[0].id
    assert not admit_upload(some, "c", MAX_FACTS_BYTES, resumable=True).fits


uploads = st.builds(
    UnfinishedUpload,
    id=st.uuids().map(lambda one: one.hex[:24]),
    client=st.sampled_from("abc"),
    idle=st.booleans(),
    has_bytes=st.booleans(),
    active_at=st.integers(0, 5),
    metadata_bytes=st.integers(2, MAX_FACTS_BYTES // 20),
)


@given(st.lists(uploads, max_size=MAX_UPLOADS_PER_NAME), st.sampled_from("abcd"), st.integers(2, 9000), st.booleans())
def test_limits_hold_and_no_writer_is_evicted(
    present: list[UnfinishedUpload], client: str, size: int, resumable: bool
) -> None:
    decision = admit_upload(present, client, size, resumable=resumable)
    if not decision.fits:
        assert decision.evicted is None
        return
    left = [one for one in present if one.id != decision.evicted]
    if decision.evicted is not None:
        (evicted,) = (one for one in present if one.id == decision.evicted)
        assert evicted.idle
    assert len(left) < MAX_UPLOADS_PER_NAME
    if resumable:
        assert sum(one.idle and one.client == client for one in left) < MAX_IDLE_UPLOADS_PER_CLIENT
    if sum(one.metadata_bytes for one in present) <= MAX_FACTS_BYTES:
        assert sum(one.metadata_bytes for one in left) + size <= MAX_FACTS_BYTES
