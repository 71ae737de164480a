"""Redis URLs of the client: valid ones open a pool, and what is said about others contains no part of them."""

from typing import Any

import pytest

from gridcast._bus.redis import RedisPool
from gridcast.publish import Publisher
from tests.support.secret_leaks import MALFORMED_REDIS_URLS, describe, find_leaks


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", {"host": "localhost"}),
        ("REDIS://localhost:6380/3", {"host": "localhost", "port": 6380, "db": 3}),
        ("redis://:6380", {"port": 6380}),
        ("redis:///2", {"db": 2}),
        ("redis://user:p%2Fq%40r@host/0", {"username": "user", "password": "p/q@r", "host": "host", "db": 0}),
        ("redis://:p@q@host", {"password": "p@q", "host": "host"}),
        ("redis://:p:q!$&'()*+,;=%@host", {"password": "p:q!$&'()*+,;=%", "host": "host"}),
        ("redis://[::1]:6379/1", {"host": "::1", "port": 6379, "db": 1}),
        ("rediss://host/0?ssl_cert_reqs=none", {"host": "host"}),
        ("redis://host?db=4", {"db": 4}),
    ],
)
def test_valid_urls(url: str, expected: dict[str, Any]) -> None:
    pool: Any = RedisPool.from_url(url)._pool
    assert {name: pool.connection_kwargs.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("url", "sentinels", "expected"),
    [
        ("redis+sentinel://a:1,b:2/name/3", [("a", 1), ("b", 2)], {"db": 3}),
        ("redis+sentinel://a/name", [("a", 26379)], {"db": 0}),
        ("redis+sentinel://[::1]:5,[::2]/name/", [("::1", 5), ("::2", 26379)], {"db": 0}),
        (
            "rediss+sentinel://u:p%23q@a/name/1?sentinel_password=x%40y",
            [("a", 26379)],
            {"username": "u", "password": "p#q"},
        ),
    ],
)
def test_valid_sentinel_urls(url: str, sentinels: list[tuple[str, int]], expected: dict[str, Any]) -> None:
    pool: Any = RedisPool.from_url(url)._pool
    assert pool.service_name == "name"
    options = [one.connection_pool.connection_kwargs for one in pool.sentinel_manager.sentinels]
    assert [(one["host"], one["port"]) for one in options] == sentinels
    assert {name: pool.connection_kwargs.get(name) for name in expected} == expected
    if "sentinel_password" in url:
        assert options[0]["password"] == "x@y"


@pytest.mark.parametrize("url", MALFORMED_REDIS_URLS.values(), ids=MALFORMED_REDIS_URLS.keys())
def test_what_is_said_about_a_malformed_url_contains_no_part_of_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"Redis URL|Sentinel URL") as refused:
        Publisher.from_url(url, "/billing")
    assert find_leaks(describe(refused.value)) == []
