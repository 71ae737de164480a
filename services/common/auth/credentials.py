"""Finds the credential of a request: one bearer token (RFC 6750, 2.1), one signed link, or none. Pure.

A token in the query is never read: it would be in logs, histories and Referer. A link lets its holder do one thing, for a
while.
"""

from collections.abc import Iterable, Sequence

from services.common.asgi import Scope
from services.common.errors import BadRequest, Unauthorized
from services.common.http.headers import Header

TOKEN_SUBPROTOCOL_PREFIX = "bearer."  # noqa: S105  # not a token
SUBPROTOCOL = "cloudevents.json"
_LINK_PARAMETER = b"link="


def find_token(headers: Iterable[Header]) -> str | None:
    """Return the token of the Authorization field, None without one.

    Raises BadRequest for two fields, Unauthorized for another scheme or a malformed value.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            if found is not None:
                raise BadRequest("there is more than one credential: send one Authorization field")
            found = value
    if found is None:
        return None
    scheme, _, token = found.partition(b" ")
    if scheme.lower() != b"bearer" or not (token := token.strip(b" ")):
        raise Unauthorized("the Authorization field must be: Bearer TOKEN", 'error="invalid_token"')
    return token.decode("latin-1")  # whether it is a token is judged where it is verified


def find_link(query: bytes) -> str | None:
    """Return the signed link of a query, None without one. Raises BadRequest for two.

    A link has no character that would be percent-encoded: another spelling of it is not one.
    """
    if _LINK_PARAMETER not in query:
        return None
    found = [part[len(_LINK_PARAMETER) :] for part in query.split(b"&") if part.startswith(_LINK_PARAMETER)]
    if len(found) > 1:
        raise BadRequest("there is more than one credential: send one link")
    return found[0].decode("latin-1") if found else None


def find_socket_token(headers: Iterable[Header], subprotocols: Sequence[str]) -> str | None:
    """Return the token of a WebSocket handshake: of its Authorization field or of its subprotocols, None without one.

    A page cannot set header fields of a handshake, so it offers `cloudevents.json` and, after it, `bearer.TOKEN`. Raises as
    `find_token`, and BadRequest for both, for two, or where `cloudevents.json` is not offered: a browser would close a connection
    whose answer selects none.
    """
    token = find_token(headers)
    offered = [name for name in subprotocols if _carries_token(name)]
    if not offered:
        return token
    if token is not None or len(offered) > 1:
        raise BadRequest("there is more than one credential: send an Authorization field or one bearer subprotocol")
    if SUBPROTOCOL not in subprotocols:
        raise BadRequest(
            f"a bearer subprotocol must be offered together with {SUBPROTOCOL}, which is the one that is selected"
        )
    return offered[0][len(TOKEN_SUBPROTOCOL_PREFIX) :]


def _carries_token(subprotocol: str) -> bool:
    return subprotocol[: len(TOKEN_SUBPROTOCOL_PREFIX)].lower() == TOKEN_SUBPROTOCOL_PREFIX


def drop_socket_token(scope: Scope) -> None:
    """Remove the token from the scope of a WebSocket, which lives as long as the connection: nothing reads it again."""
    headers = scope["headers"]
    kept = [field for field in headers if field[0] not in {b"authorization", b"sec-websocket-protocol"}]
    if isinstance(headers, list):
        headers[:] = kept  # the server's own list
    else:
        scope["headers"] = kept
    scope["subprotocols"] = [name for name in scope["subprotocols"] if not _carries_token(name)]
