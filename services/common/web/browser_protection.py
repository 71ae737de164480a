"""Protects a service from what browsers can be made to send: DNS rebinding and cross-site request forgery."""

from services.common.asgi import Scope
from services.common.http.headers import Header, find_header
from services.common.http.hosts import HostPolicy
from services.common.http.origins import SAFE_METHODS, OriginPolicy

SAME_ORIGIN_ONLY: tuple[Header, ...] = ((b"cross-origin-resource-policy", b"same-origin"),)
"""Keeps a response from pages of other origins that embed it, as a script or an image (Fetch, "Cross-Origin-Resource-Policy")."""


_OF_LINKS = (*SAME_ORIGIN_ONLY, (b"cache-control", b"private"), (b"referrer-policy", b"no-referrer"))


def service_response_headers(scope: Scope) -> tuple[Header, ...]:
    """Return the fields that a service adds to its response to a request.

    That to a request with a signed link is in no shared cache, and what it leads to does not learn its address. Cache-Control is a
    list, whose parts may be in several fields (RFC 9110, 5.3).
    """
    return _OF_LINKS if b"link=" in scope.get("query_string", b"") else SAME_ORIGIN_ONLY


class BrowserProtection:
    """Judges the Host of every request to a service, and where a request that changes state comes from.

    What the gateway forwards of such requests has neither Origin nor Sec-Fetch-Site: it has judged them.
    """

    def __init__(self, hosts: HostPolicy, origins: OriginPolicy) -> None:
        self._hosts = hosts
        self._origins = origins

    def __call__(self, scope: Scope) -> None:
        """Raise MisdirectedRequest or Forbidden where a request must not be answered."""
        headers = scope["headers"]
        self._hosts.check(headers)
        if scope["method"] not in SAFE_METHODS:
            self._origins.check_request(headers, forwarded_host(headers))


def forwarded_host(headers: list[Header]) -> str | None:
    """Return X-Forwarded-Host. A service may trust it: a page of another origin cannot set it without a preflight, which fails."""
    value = find_header(headers, b"x-forwarded-host")
    return None if value is None else value.decode("latin-1")
