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


def test_token_bucket_tells_when_it_holds_enough() -> None:
    bucket = TokenBucket(0.5, 2, now=0.0)
    assert bucket.try_acquire(0.0, 2)
    assert (bucket.seconds_until(), bucket.seconds_until(2)) == (2.0, 4.0)
    assert not bucket.try_acquire(1.0)
    assert bucket.seconds_until() == 1.0
    assert bucket.try_acquire(4.0)
    assert (bucket.seconds_until(), bucket.seconds_until(2)) == (0.0, 2.0)
