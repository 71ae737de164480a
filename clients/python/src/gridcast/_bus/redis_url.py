"""Checks Redis URLs. An error names the fault and never quotes the URL: any part of a malformed one may be a part of a password."""

import re

_SCHEMES = frozenset({"redis", "rediss", "redis+sentinel", "rediss+sentinel"})
_REDIS_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(?::(?P<port>[0-9]{0,5}))?")
_PATH = re.compile(r"/?[0-9]*/?")
_SENTINEL_PATH = re.compile(r"/[^/]+(?:/[0-9]*/?)?")


def check_redis_url(url: str) -> None:
    """Check `redis://USER:PASSWORD@HOST:PORT/DB` or `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/NAME/DB`; also rediss.

    What RFC 3986, 3.2.1 does not allow in a user name or password must be percent-encoded. An unencoded `/`, `?` or `#` ends the
    authority: the rest of the password would be taken for a host, looked up and logged.

    Raises:
        ValueError: with a sentence that contains no part of the URL.

    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise ValueError("a Redis URL begins with redis://, rediss://, redis+sentinel:// or rediss+sentinel://")
    if not rest.isprintable() or " " in rest:
        raise ValueError("a Redis URL has no white space and no control characters; a space is written as %20")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    remainder = rest[len(authority) :]
    userinfo, _, hosts = authority.rpartition("@")
    if "@" in remainder or "#" in remainder or "[" in userinfo or "]" in userinfo:
        raise ValueError(
            "a Redis URL is malformed: in its user name, passwords and options / is written as %2F, ? as %3F, # as %23, @ as %40, "
            "[ as %5B and ] as %5D"
        )
    path = remainder.partition("?")[0]
    if scheme.lower().endswith("+sentinel"):
        if not hosts or not _SENTINEL_PATH.fullmatch(path):
            raise ValueError("a Sentinel URL is redis+sentinel://host:port,host:port/NAME/DB")
        _check_hosts(hosts.split(","))
    else:
        if not _PATH.fullmatch(path):
            raise ValueError("a Redis URL ends with the number of the database, as redis://host:port/0")
        _check_hosts([hosts])


def _check_hosts(hosts: list[str]) -> None:
    for host in hosts:
        match = _REDIS_HOST.fullmatch(host)
        if match is None or not 0 < int(match["port"] or 1) < 65536:
            raise ValueError(
                "a Redis URL is malformed: a port is a number from 1 to 65535, an IPv6 address is in brackets, and : / ? # [ ] @ "
                "in a user name or password are percent-encoded"
            )
