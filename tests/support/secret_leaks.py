"""Malformed connection strings, and a search for parts of their secret in what a program says."""

import traceback

SECRET = "Qx7vZkJ3wRt9"
"""No part of it occurs by chance; a numeric part would, so the ports of malformed strings are checked by their own number."""
DIGITS = "48213"
"""A numeric beginning of a password: with an unencoded slash after it, it is taken for a port."""


def find_leaks(text: str) -> list[str]:
    """Return the parts of the secrets, of three characters and more, that occur in `text`."""
    parts = {SECRET[start : start + 3] for start in range(len(SECRET) - 2)} | {DIGITS, DIGITS[:4]}
    lowered = text.lower()  # host names are logged in lower case
    return sorted(part for part in parts if part.lower() in lowered)


def describe(error: BaseException) -> str:
    """Return the error as a log shows it: with its causes, and everything that its traceback quotes."""
    return "".join(traceback.format_exception(error)[-1:]) + "".join(
        str(one) for one in (error.__cause__, None if error.__suppress_context__ else error.__context__) if one
    )


HALVES = (SECRET[:6], SECRET[6:])

MALFORMED_MONGODB_URIS = {
    "slash": f"mongodb://user:{HALVES[0]}/{HALVES[1]}@host:27017/gridcast",
    "slash after digits": f"mongodb://user:{DIGITS}/{SECRET}@host",
    "question mark": f"mongodb://user:{HALVES[0]}?{HALVES[1]}@host",
    "question mark and option": f"mongodb://user:{HALVES[0]}?a={HALVES[1]}@host",
    "at sign": f"mongodb://user:{HALVES[0]}@{HALVES[1]}@host",
    "at sign before slash": f"mongodb://user:p@{HALVES[0]}/{HALVES[1]}@host",
    "colon": f"mongodb://user:{HALVES[0]}:{HALVES[1]}@host",
    "percent": f"mongodb://user:{HALVES[0]}%{HALVES[1]}@host",
    "no host": f"mongodb://user:{SECRET}@",
    "no at sign": f"mongodb://user:{SECRET}",
    "no user": f"mongodb://:{SECRET}@host",
    "port of letters": f"mongodb://host:{SECRET}/gridcast",
    "port too large": "mongodb://user:p@host:482130/gridcast",
    "white space": f"mongodb://user:{HALVES[0]} {HALVES[1]}@host",
    "line end": f"mongodb://user:{HALVES[0]}\n{HALVES[1]}@host",
    "bracket": f"mongodb://user:p@[{SECRET}/gridcast",
    "database": f'mongodb://user:p@host/{HALVES[0]}"{HALVES[1]}',
    "option without value": f"mongodb://user:p@host/gridcast?{SECRET}",
    "scheme": f"mongo://user:{SECRET}@host",
    "no scheme": f"user:{SECRET}@host",
    "percent in host": f"mongodb://user:p@{SECRET}%20/gridcast",
}

MALFORMED_REDIS_URLS = {
    "slash": f"redis://user:{HALVES[0]}/{HALVES[1]}@host:6379/0",
    "slash after digits": f"redis://user:{DIGITS}/{SECRET}@host:6379/0",
    "question mark": f"redis://:{HALVES[0]}?{HALVES[1]}@host",
    "question mark and option": f"redis://:{HALVES[0]}?a={HALVES[1]}@host",
    "hash": f"redis://:{HALVES[0]}#{HALVES[1]}@host",
    "at sign before slash": f"redis://:p@{HALVES[0]}/{HALVES[1]}@host",
    "brackets": f"redis://:{HALVES[0]}[{HALVES[1]}]@host",
    "one bracket": f"redis://:{HALVES[0]}[{HALVES[1]}@host",
    "no at sign": f"redis://:{SECRET}",
    "port of letters": f"redis://host:{SECRET}/0",
    "port too large": "redis://:p@host:482130/0",
    "database": f"redis://:p@host/{SECRET}",
    "unknown option": f"redis://:p@host/0?{HALVES[0]}={HALVES[1]}",
    "invalid option": f"redis://:p@host/0?socket_timeout={SECRET}",
    "compatibility character": f"redis://:{HALVES[0]}\u2100{HALVES[1]}@host",
    "line end": f"redis://:{HALVES[0]}\n{HALVES[1]}@host",
    "scheme": f"http://:{SECRET}@host",
    "unix": f"unix://:{SECRET}@/run/redis",
    "sentinel: slash": f"redis+sentinel://user:{HALVES[0]}/{HALVES[1]}@host:26379/name/0",
    "sentinel: slash after digits": f"redis+sentinel://user:{DIGITS}/{SECRET}@host:26379/name/0",
    "sentinel: hash": f"rediss+sentinel://:{HALVES[0]}#{HALVES[1]}@host/name",
    "sentinel: password of the sentinels": f"redis+sentinel://host/name/0?sentinel_password={HALVES[0]}@{HALVES[1]}",
    "sentinel: port of letters": f"redis+sentinel://host:1,host:{SECRET}/name/0",
    "sentinel: no at sign": f"redis+sentinel://:{SECRET}/name/0",
    "sentinel: database": f"redis+sentinel://:p@host/name/{SECRET}",
    "sentinel: no name": f"redis+sentinel://:{SECRET}@host",
    "sentinel: compatibility character": f"redis+sentinel://:{HALVES[0]}\uff1f{HALVES[1]}@host/name",
}
