"""services.common.http.hosts: which names this server answers to."""

import pytest

from services.common.errors import MisdirectedRequest
from services.common.http.hosts import DEFAULT_ALLOWED_HOSTS, HostPolicy
from services.common.settings import Settings

OWN_NAMES = [
    *("localhost", "localhost:8000", "LOCALHOST", "localhost.", "page.localhost:8000"),
    *(
        "127.0.0.1",
        "127.0.0.1:8000",
        "10.1.2.3:80",
        "0.0.0.0",
        "[::1]",
        "[::1]:8000",
        "[::ffff:1.2.3.4]",
        "[fd00::1]:1",
    ),
]
FOREIGN_NAMES = [
    *("attacker.example", "attacker.example:8000", "localhost.attacker.example", "127.0.0.1.attacker.example"),
    *("notlocalhost", "localhost.example", "a", "gateway:8000", "media.example", "xn--localhst-0ya"),
    # Neither is an IP address as a browser writes it, and a resolver may take each for a name.
    *("127.1", "2130706433", "0x7f000001", "127.0.0.1.", "1.2.3.4.5", "1.2.3.256", "[127.0.0.1]", "[1::2::3]", "::1"),
    *("", ":8000", "a b", "localhost:80:80", "localhost/a", "localhost@attacker.example", "localh\xf6st", "[::1"),
]


def check(allowed: str, host: str) -> None:
    HostPolicy(allowed).check([(b"accept", b"*/*"), (b"host", host.encode("latin-1"))])


@pytest.mark.parametrize("host", OWN_NAMES)
@pytest.mark.parametrize("allowed", [DEFAULT_ALLOWED_HOSTS, "*", "media.example,*.localhost"])
def test_loopback_names_and_ip_literals_are_allowed(allowed: str, host: str) -> None:
    check(allowed, host)


@pytest.mark.parametrize("host", FOREIGN_NAMES)
def test_other_names_are_refused_by_default(host: str) -> None:
    with pytest.raises(MisdirectedRequest, match="GRIDCAST_ALLOWED_HOSTS"):
        check(DEFAULT_ALLOWED_HOSTS, host)
    check("*", host)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("media.example", True),
        ("MEDIA.example:8443", True),
        ("media.example.", True),
        ("a.media.example", False),
        ("amedia.example", False),
        ("x.cdn.example", True),
        ("y.x.cdn.example:1", True),
        ("cdn.example", False),
        ("xcdn.example", False),
        ("gateway", True),
        ("gateway.attacker.example", False),
    ],
)
def test_listed_names(host: str, *, allowed: bool) -> None:
    policy = HostPolicy(" media.example, *.CDN.example,gateway,")
    assert policy.allows(host) is allowed
    for _ in range(2):  # the second judgement is remembered
        if allowed:
            policy.check([(b"host", host.encode())])
        else:
            with pytest.raises(MisdirectedRequest):
                policy.check([(b"host", host.encode())])


def test_http_1_0_without_host_names_no_one_else() -> None:
    HostPolicy("").check([(b"accept", b"*/*")])


@pytest.mark.parametrize(
    "allowed", ["http://media.example", "media.example:8000", "a b", "*media.example", "a.*", "müller.example", "a..b"]
)
def test_malformed_settings_are_refused(allowed: str) -> None:
    with pytest.raises(ValueError, match="not a host name"):
        HostPolicy(allowed)
    with pytest.raises(ValueError, match="allowed_hosts"):
        Settings(allowed_hosts=allowed)
