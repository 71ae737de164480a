"""One TLS context for all clients of httpx in the test process, made of the certificates of this machine once.

httpx makes one for each client and for each `httpx.get`, though hardly a test speaks TLS: 20 ms of CPU, ten times the request.
"""

import os
import ssl
from functools import cache

import httpx
import pytest


def share_tls_context() -> None:
    """Let clients with the default `verify` share their context. Others get one of their own, as before."""
    create = httpx.create_ssl_context

    @cache
    def create_shared(trust_env: bool, *_sources: str | None) -> ssl.SSLContext:
        return create(trust_env=trust_env)

    def create_or_share(
        verify: ssl.SSLContext | str | bool = True,
        cert: str | tuple[str, str] | tuple[str, str, str] | None = None,
        trust_env: bool = True,
    ) -> ssl.SSLContext:
        if verify is True and cert is None:
            return create_shared(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
        return create(verify, cert, trust_env)

    # Fails where httpx has moved it.
    pytest.MonkeyPatch().setattr("httpx._transports.default.create_ssl_context", create_or_share)
