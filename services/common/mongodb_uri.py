"""Checks connection strings of MongoDB. No error quotes the string: any part of a malformed one may be a part of its password."""

import re

_MONGODB_HOST = re.compile(
    r"\[[0-9A-Fa-f:.]+(?:%25[^\[\]:%]+)?\](?::(?P<literal_port>[0-9]{1,5}))?"  # IPv6, perhaps with a zone (RFC 6874)
    r"|[^\[\]:]+\.sock"
    r"|[^\[\]:%]+(?::(?P<port>[0-9]{1,5}))?"
)
_PERCENT_ENCODED = re.compile(r"(?:[^%]|%[0-9A-Fa-f]{2})*")
_OPTION = re.compile(r"[A-Za-z]+=.*")


def check_mongodb_uri(uri: str) -> None:
    """Check `mongodb://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?OPTIONS`, also `mongodb+srv://`.

    What RFC 3986, 3.2.1 does not allow in a user name or password must be percent-encoded. An unencoded `/` or `?` ends the
    authority: the driver would take the rest of the password for a host or a database, look it up and log it.

    Raises:
        ValueError: with a sentence that contains no part of the string.

    """
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme not in {"mongodb", "mongodb+srv"}:
        raise ValueError("a connection string of MongoDB begins with mongodb:// or mongodb+srv://")
    if not rest.isprintable() or " " in rest:
        raise ValueError(
            "a connection string of MongoDB has no white space and no control characters; a space is written as %20"
        )
    authority = re.split(r"[/?]", rest, maxsplit=1)[0]
    path, _, options = rest[len(authority) :].partition("?")
    userinfo, at, hosts = authority.rpartition("@")
    if at and not userinfo.partition(":")[0]:
        raise ValueError("a connection string of MongoDB has a password without a user name")
    well_encoded = userinfo.count(":") <= 1 and "@" not in userinfo and _PERCENT_ENCODED.fullmatch(userinfo)
    if not well_encoded or "@" in path or "@" in options:
        raise ValueError(
            "a connection string of MongoDB is malformed: in its user name, password and options : is written as %3A, "
            "/ as %2F, ? as %3F, @ as %40 and % as %25"
        )
    if not all(_is_host(host) for host in hosts.split(",")):
        raise ValueError(
            "a connection string of MongoDB is malformed: after the credentials, in which : / ? @ % are percent-encoded, "
            "it has host, host:port or [IPv6 address]:port, separated by commas"
        )
    if re.search(r'[/\\ "$]', path[1:]):
        raise ValueError("a connection string of MongoDB has an invalid name of a database after its hosts")
    if options and not all(_OPTION.fullmatch(option) for option in re.split("[&;]", options)):
        raise ValueError("a connection string of MongoDB has options of another form than name=value&name=value")


def _is_host(text: str) -> bool:
    match = _MONGODB_HOST.fullmatch(text)
    return match is not None and 0 < int(match["port"] or match["literal_port"] or 1) < 65536
