"""Keys and hashes by which viewers are counted."""

from hypothesis import given
from hypothesis import strategies as st

from services.common.live.viewer_counts import BUCKETS, VIEWER_TARGETS, bucket_key, bucket_of, hash_viewer, salt_key


@given(now=st.floats(1e9, 3e9), target=st.integers(1, 10), age=st.floats(0, 1))
def test_a_request_counts_for_three_targets(now: float, target: int, age: float) -> None:
    asked = bucket_of(now, target)
    newest = bucket_of(now + age * VIEWER_TARGETS * target, target)
    assert 0 <= newest - asked < BUCKETS
    assert bucket_of(now + 2 * VIEWER_TARGETS * target, target) - asked >= BUCKETS


def test_a_viewer_is_a_hash_that_another_day_changes() -> None:
    salt = b"s" * 32
    assert hash_viewer(salt, "1.2.3.4", "agent") == hash_viewer(salt, "1.2.3.4", "agent")
    others = {
        hash_viewer(salt, "1.2.3.5", "agent"),
        hash_viewer(salt, "1.2.3.4", "b"),
        hash_viewer(b"t", "1.2.3.4", "agent"),
    }
    assert len({*others, hash_viewer(salt, "1.2.3.4", "agent")}) == 4
    assert b"1.2.3.4" not in hash_viewer(salt, "1.2.3.4", "agent")
    assert salt_key(86_399.9) != salt_key(86_400.1)
    assert bucket_key("x", 1).startswith("gridcast:live:x:")
