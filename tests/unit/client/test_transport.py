"""gridcast._transport: what servers are verified by."""

import ssl
from typing import Any

import pytest

from gridcast._server_url import parse_server_url
from gridcast._transport import AsyncHttpTransport, HttpTransport


@pytest.mark.parametrize("kind", [HttpTransport, AsyncHttpTransport])
@pytest.mark.parametrize(("url", "has_certificates"), [("http://localhost", False), ("HTTPS://localhost", True)])
def test_certificates_are_loaded_for_https_only(kind: Any, url: str, *, has_certificates: bool) -> None:
    """They take 20 ms for each client. One without them would refuse every server that it meets over TLS."""
    context: ssl.SSLContext = kind(parse_server_url(url), 1.0, "test")._client._transport._pool._ssl_context
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert (context.cert_store_stats()["x509_ca"] > 0) is has_certificates
