"""Addresses that webhooks must not reach, as a resolver returns them for every spelling."""

import socket

import pytest

from services.common.webhooks.addresses import choose_address, why_forbidden
from tests.support.numeric_hosts import NUMERIC_HOSTS


@pytest.mark.parametrize("host", NUMERIC_HOSTS)
def test_forbidden_after_resolution(host: str) -> None:
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]
    with pytest.raises(ValueError, match="resolves to"):
        choose_address(found, allow_private=False)


def test_there_are_forty_and_more() -> None:
    assert len(set(NUMERIC_HOSTS)) >= 40


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "::ffff:8.8.8.8", "2606:4700::1111", "172.15.255.255", "172.32.0.1", "100.63.0.1"]
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert why_forbidden(address, allow_private=False) is None
    assert choose_address([address], allow_private=False) == address


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True), ("10.1.2.3", True), ("192.168.0.9", True), ("::1", True), ("fd12::1", True),
        ("::ffff:127.0.0.1", True),
        ("169.254.169.254", False), ("fe80::1%1", False), ("0.0.0.0", False), ("224.0.0.1", False), ("64:ff9b::a00:1", False),
    ],
)  # fmt: skip
def test_private_addresses_of_the_settings(address: str, allowed: bool) -> None:
    assert (why_forbidden(address, allow_private=True) is None) is allowed


def test_one_forbidden_address_refuses_all() -> None:
    with pytest.raises(ValueError, match="private"):
        choose_address(["8.8.8.8", "10.0.0.1"], allow_private=False)
    with pytest.raises(ValueError, match="no address"):
        choose_address([], allow_private=False)
    with pytest.raises(ValueError, match="not an IP address"):
        choose_address(["metadata.google.internal"], allow_private=False)
