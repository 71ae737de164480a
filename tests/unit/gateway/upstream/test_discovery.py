"""gateway.upstream.discovery: resolved addresses become upstreams, and a failed lookup changes nothing."""

import asyncio
import socket
from typing import Any

import pytest

from gateway.app import create_app
from gateway.settings import GatewaySettings
from gateway.upstream.discovery import DnsDiscovery
from gateway.upstream.upstream_pool import Address, UpstreamPool

pytestmark = pytest.mark.anyio

DnsRecords = dict[str, list[str] | OSError]


@pytest.fixture
def dns_records(monkeypatch: pytest.MonkeyPatch) -> DnsRecords:
    """A resolver with addresses by hostname; changed by the test."""
    found: DnsRecords = {}

    async def getaddrinfo(_loop: object, host: str, port: int, **_options: object) -> list[Any]:
        record = found.get(host, socket.gaierror("unknown"))
        if isinstance(record, OSError):
            raise record
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in record for _ in range(2)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    return found


def upstream_hosts(pool: UpstreamPool) -> list[str]:
    return [upstream.address.host for upstream in pool.upstreams]


async def test_ip_addresses_are_not_resolved(dns_records: DnsRecords) -> None:
    pool = UpstreamPool("upload")
    discovery = DnsDiscovery(pool, [Address("10.0.0.1", 1), Address("::1", 1)])
    await discovery.run()
    assert upstream_hosts(pool) == ["10.0.0.1", "::1"]
    assert not dns_records


async def test_hostname_resolves_to_all_its_current_addresses(dns_records: DnsRecords) -> None:
    pool = UpstreamPool("stream")
    discovery = DnsDiscovery(pool, [Address("stream", 8002)])
    assert upstream_hosts(pool) == []
    assert pool.select_least_requests() is None
    dns_records["stream"] = ["10.0.0.2", "10.0.0.1"]
    await discovery.refresh()
    assert upstream_hosts(pool) == ["10.0.0.1", "10.0.0.2"]
    first = pool.upstreams[0]
    first.active_requests = 7
    dns_records["stream"] = ["10.0.0.1", "10.0.0.3"]
    await discovery.refresh()
    assert upstream_hosts(pool) == ["10.0.0.1", "10.0.0.3"]
    assert pool.upstreams[0] is first


async def test_a_failed_or_empty_lookup_changes_nothing(dns_records: DnsRecords) -> None:
    pool = UpstreamPool("stream")
    discovery = DnsDiscovery(pool, [Address("stream", 8002)])
    dns_records["stream"] = ["10.0.0.1"]
    await discovery.refresh()
    for records in (OSError("no resolver"), list[str]()):
        dns_records["stream"] = records
        await discovery.refresh()
        assert upstream_hosts(pool) == ["10.0.0.1"]


async def test_hostnames_and_addresses_are_deduplicated(dns_records: DnsRecords) -> None:
    pool = UpstreamPool("stream")
    discovery = DnsDiscovery(pool, [Address("10.0.0.1", 8002), Address("stream", 8002), Address("other", 8002)])
    dns_records |= {"stream": ["10.0.0.1", "10.0.0.2"], "other": ["10.0.0.3"]}
    await discovery.refresh()
    assert upstream_hosts(pool) == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]


async def test_lookups_continue_after_an_error(dns_records: DnsRecords, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.upstream.discovery.DNS_REFRESH_INTERVAL_SECONDS", 0.01)
    pool = UpstreamPool("stream")
    following = asyncio.create_task(DnsDiscovery(pool, [Address("stream", 8002)]).run())
    for number in range(3):
        dns_records["stream"] = [f"10.0.0.{number}"]
        async with asyncio.timeout(5):
            while upstream_hosts(pool) != dns_records["stream"]:  # noqa: ASYNC110 - the task beside it has no event to wait for
                await asyncio.sleep(0.005)
    following.cancel()


@pytest.mark.parametrize("silent", [False, True])
async def test_gateway_is_ready_after_the_first_lookup(monkeypatch: pytest.MonkeyPatch, *, silent: bool) -> None:
    """Otherwise the first requests find no upstream. A hanging resolver delays the start only for INITIAL_DNS_TIMEOUT_SECONDS."""
    monkeypatch.setattr("gateway.upstream.discovery.INITIAL_DNS_TIMEOUT_SECONDS", 0.05 if silent else 10.0)
    looked_up, known, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    events, sent = iter(["lifespan.startup", "lifespan.shutdown"]), asyncio.Queue[Any]()

    async def getaddrinfo(_loop: object, _host: str, port: int, **_options: object) -> list[Any]:
        looked_up.set()
        await known.wait()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", port))]

    async def receive() -> dict[str, str]:
        if (kind := next(events)) == "lifespan.shutdown":
            await ended.wait()
        return {"type": kind}

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    app = create_app(GatewaySettings.model_validate({"stream_urls": "http://stream:8002"}))
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(app({"type": "lifespan", "state": {}}, receive, sent.put))
        await looked_up.wait()
        if not silent:
            await asyncio.sleep(0)
            assert sent.empty()
            known.set()
        assert (await sent.get())["type"] == "lifespan.startup.complete"
        ended.set()
