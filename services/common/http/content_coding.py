"""Content codings of requests (RFC 9110, 8.4): none is supported, on any way in."""

from collections.abc import Iterable

from services.common.errors import UnsupportedMediaType
from services.common.http.headers import Header


def require_identity_coding(headers: Iterable[Header]) -> None:
    """Raise UnsupportedMediaType with Accept-Encoding where Content-Encoding names a coding (RFC 9110, 12.5.3 and 15.5.16).

    Stored or parsed as it is, a compressed body would be taken for what it is not.
    """
    for name, value in headers:
        if name == b"content-encoding" and any(
            coding.strip(b" \t").lower() not in {b"", b"identity"} for coding in value.split(b",")
        ):
            raise UnsupportedMediaType("Content-Encoding is not supported", {"accept-encoding": "identity"})
