"""The TLS context that all HTTP clients of a test process share."""

import ssl
from pathlib import Path
from typing import Any

import certifi
import httpx
import pytest


def test_clients_share_a_context_until_the_certificates_are_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    httpx.Client().close()
    made: list[object] = []
    create = ssl.create_default_context

    def noting(*arguments: Any, **options: Any) -> ssl.SSLContext:
        made.append(options["cafile"])
        return create(*arguments, **options)

    monkeypatch.setattr(ssl, "create_default_context", noting)
    for _ in range(3):
        httpx.Client().close()
    assert made == []
    other = tmp_path / "certificates.pem"
    other.write_bytes(Path(certifi.where()).read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(other))
    for _ in range(3):
        httpx.Client().close()
    assert made == [str(other)]
    httpx.Client(verify=False).close()
    assert made == [str(other)]
