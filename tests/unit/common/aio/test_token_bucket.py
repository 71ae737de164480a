"""services.common.aio.token_bucket: refill rate and capacity."""

from services.common.aio.token_bucket import TokenBucket


def test_token_bucket_refills_at_its_rate() -> None:
    bucket = TokenBucket(10, 20, now=100.0)
    assert all(bucket.try_acquire(100.0) for _ in range(20))
    assert not bucket.try_acquire(100.0)
    assert bucket.try_acquire(100.125)
    assert not bucket.try_acquire(100.125)
    assert bucket.try_acquire(200.0, 20)
    assert not bucket.try_acquire(200.0)
    assert not bucket.try_acquire(201.0, 11)
    assert bucket.try_acquire(201.0, 10)
