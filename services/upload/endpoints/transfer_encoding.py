"""Decodes the Content-Transfer-Encoding of a part (RFC 2045, 6), piece by piece. Pure.

RFC 7578, 4.7 deprecates the field in forms; general MIME libraries send it. Stored as it is sent, a file would be its letters.
"""

import binascii
import re
from typing import Protocol

from services.common.errors import BadRequest, UnsupportedMediaType

MAX_TRAILING_SPACE_BYTES = 998
"""White space that is held back because a line end may follow: the longest line of RFC 5322, 2.1.1."""

_INVALID_ESCAPE = re.compile(rb"=(?![0-9A-Fa-f]{2}|\r\n)")
_INCOMPLETE_ESCAPE = re.compile(rb"=[0-9A-Fa-f]?\Z")


class TransferDecoder(Protocol):
    """Decodes one part. Both methods raise BadRequest for what is not in that encoding."""

    def feed(self, data: bytes) -> bytes:
        """Return what these bytes complete."""

    def finish(self) -> bytes:
        """Return the rest, at the end of the part."""


def create_decoder(encoding: bytes) -> TransferDecoder:
    """Return a decoder for a Content-Transfer-Encoding. Raises UnsupportedMediaType for one that is not known."""
    match encoding.strip().lower():
        case b"" | b"7bit" | b"8bit" | b"binary":
            return _IdentityDecoder()
        case b"base64":
            return _Base64Decoder()
        case b"quoted-printable":
            return _QuotedPrintableDecoder()
    raise UnsupportedMediaType("Content-Transfer-Encoding is 7bit, 8bit, binary, base64 or quoted-printable")


class _IdentityDecoder:
    def feed(self, data: bytes) -> bytes:
        return data

    def finish(self) -> bytes:
        return b""


class _Base64Decoder:
    """Line ends and white space are ignored; any other character that is not in the alphabet is an error."""

    def __init__(self) -> None:
        self._rest = b""
        self._padded = False

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data.translate(None, b"\r\n \t")
        whole = len(text) - len(text) % 4
        text, self._rest = text[:whole], text[whole:]
        if not text:
            return b""
        if self._padded:
            raise _not_encoded_as("base64")
        self._padded = text.endswith(b"=")
        try:
            return binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as error:
            raise _not_encoded_as("base64") from error

    def finish(self) -> bytes:
        if self._rest:
            raise _not_encoded_as("base64")
        return b""


class _QuotedPrintableDecoder:
    """White space at the end of a line was added on the way and is dropped; `=` at the end of a line joins it to the next one."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        text = self._rest + data
        kept = text.rstrip(b" \t\r")  # white space and a line end may follow
        if (escape := _INCOMPLETE_ESCAPE.search(kept, max(0, len(kept) - 2))) is not None:
            kept = kept[: escape.start()]
        self._rest = text[len(kept) :]
        if len(self._rest) > MAX_TRAILING_SPACE_BYTES:
            raise _not_encoded_as("quoted-printable")
        return self._decode(kept)

    def finish(self) -> bytes:
        return self._decode(self._rest.rstrip(b" \t"))

    def _decode(self, text: bytes) -> bytes:
        *lines, last = text.split(b"\r\n")
        text = b"".join(line.rstrip(b" \t") + b"\r\n" for line in lines) + last
        if _INVALID_ESCAPE.search(text):
            raise _not_encoded_as("quoted-printable")
        return binascii.a2b_qp(text)


def _not_encoded_as(encoding: str) -> BadRequest:
    return BadRequest(f"a part is not encoded as its Content-Transfer-Encoding says: {encoding}")
