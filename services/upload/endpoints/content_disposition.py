r"""Header fields with parameters in a form, and the names in them as the families of clients write them. Pure.

A name in a form is written in one of these ways, and each client uses one of them without saying which:

    browsers, curl, OkHttp       UTF-8 in a quoted string; a quotation mark, CR and LF as %22, %0D and %0A (HTML, 4.10.21.8)
    Go, Perl, older browsers     UTF-8 in a quoted string; a quotation mark as \", a backslash as \\ (RFC 9110, 5.6.4)
    requests, reqwest            `filename*` (RFC 5987)
    .NET                         an encoded word (RFC 2047) in `filename`, the same name in `filename*`
    email of Python              `filename*` or, where it is long, `filename*0*`, `filename*1*`, ... (RFC 2231)
    aiohttp                      all but letters, digits and -._~ percent-encoded
"""

import base64
import binascii
import quopri
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from services.common.errors import BadRequest

# One parameter, or nothing between two semicolons. A value without quotes may have any characters but a quotation mark or a
# semicolon: many clients write names so.
_PARAMETER = re.compile(
    rb"[ \t]*+(?:([!#$%&'*+.^_`|~0-9A-Za-z-]++)[ \t]*+=[ \t]*+"
    rb'(?:"((?:[^"\\]|\\.)*+)"[ \t]*+|([^";]*+)))?(?:;|\Z)',
    re.DOTALL,
)
# Only these two are escapes: a browser writes the backslashes of a name as they are.
_QUOTED_PAIR = re.compile(rb'\\(["\\])')
_CONTINUATION = re.compile(r"\*(0|[1-9][0-9]?)(\*?)\Z")
_EXTENDED_VALUE = re.compile(rb"([A-Za-z0-9_-]+)'[A-Za-z0-9-]*'(.*)\Z", re.DOTALL)
_STRAY_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_FULLY_PERCENT_ENCODED = re.compile(r"(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})*\Z")
_ENCODED_WORD = re.compile(r"=\?([A-Za-z0-9_-]+)\?([BbQq])\?([!->@-~]*)\?=")
_ENCODED_WORDS = re.compile(rf"\s*{_ENCODED_WORD.pattern}(?:\s+{_ENCODED_WORD.pattern})*\s*\Z")
_CHARSETS = {"utf-8": "utf-8", "utf8": "utf-8", "us-ascii": "ascii", "ascii": "ascii", "iso-8859-1": "latin-1"}
_FORM_ESCAPES = re.compile("%22|%0D|%0A")


@dataclass(frozen=True, slots=True)
class FieldValue:
    """A field's value before its first semicolon, in lower case, and its parameters by their names in lower case."""

    value: str
    parameters: dict[str, bytes]


def parse_field_value(raw: bytes, label: str) -> FieldValue:
    """Parse a value with parameters (RFC 9110, 5.6.6). Raises BadRequest, which names the field by `label`."""
    value, _, rest = raw.partition(b";")
    parameters: dict[str, bytes] = {}
    position = 0
    while position < len(rest):
        match = _PARAMETER.match(rest, position)
        if match is None:
            raise BadRequest(f"the {label} is malformed")
        position = match.end()
        if match[1] is None:
            continue
        name = match[1].decode("ascii").lower()
        if name in parameters:
            raise BadRequest(f"the {label} has two parameters {name!r}")
        quoted = match[2]
        parameters[name] = match[3].rstrip(b" \t") if quoted is None else _QUOTED_PAIR.sub(rb"\1", quoted)
    return FieldValue(value.strip(b" \t").lower().decode("latin-1"), parameters)


def decode_name(parameters: dict[str, bytes], key: str, *, percent_encoded: bool = False) -> str | None:
    """Return the name that the parameters give under `key`, in the first of the forms above that is there; None without one.

    `percent_encoded` says that the client percent-encodes names as a whole. Without it `%20` stays as it is: it is also a part of a
    name that a browser has not encoded. Raises BadRequest.
    """
    label = "filename" if key == "filename" else "field name"
    if (extended := parameters.get(f"{key}*")) is not None:
        return _decode_extended(extended, label)
    if any(name.startswith(f"{key}*") for name in parameters):
        return _join_continuations(parameters, key, label)
    raw = parameters.get(key)
    if raw is None:
        return None
    text = decode_text(raw, "utf-8", label)
    if _ENCODED_WORDS.match(text):
        return _decode_words(text, label)
    if percent_encoded and _FULLY_PERCENT_ENCODED.match(text):
        return decode_text(unquote_to_bytes(text), "utf-8", label)
    return _FORM_ESCAPES.sub(lambda escape: chr(int(escape[0][1:], 16)), text)


def decode_text(raw: bytes | bytearray, charset: str, label: str) -> str:
    """Decode text in UTF-8, US-ASCII or ISO-8859-1. Raises BadRequest for another charset and for bytes that are not in it."""
    codec = _CHARSETS.get(charset.lower())
    if codec is None:
        raise BadRequest(f"the {label} is in the charset {charset!r}: UTF-8, US-ASCII and ISO-8859-1 are supported")
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as error:
        raise BadRequest(f"the {label} is not {'UTF-8' if codec == 'utf-8' else charset}") from error


def _decode_extended(raw: bytes, label: str) -> str:
    """Decode `charset'language'percent-encoded` (RFC 5987, 3.2.1)."""
    match = _EXTENDED_VALUE.match(raw)
    if match is None:
        raise BadRequest(f"the extended value of the {label} has no charset (RFC 5987)")
    return decode_text(_percent_decode(match[2], label), match[1].decode("ascii"), label)


def _percent_decode(raw: bytes, label: str) -> bytes:
    if _STRAY_PERCENT.search(raw):
        raise BadRequest(f"the extended value of the {label} is not percent-encoded (RFC 5987)")
    return unquote_to_bytes(raw)


def _join_continuations(parameters: dict[str, bytes], key: str, label: str) -> str:
    """Join `key*0`, `key*1*`, ... (RFC 2231, 3 and 4.1). Those with a second asterisk are percent-encoded."""
    pieces: dict[int, tuple[bytes, bool]] = {}
    for name, raw in parameters.items():
        if name.startswith(f"{key}*") and (match := _CONTINUATION.match(name[len(key) :])) is not None:
            pieces[int(match[1])] = raw, bool(match[2])
    charset, joined = "utf-8", bytearray()
    for number in range(len(pieces)):
        if number not in pieces:
            raise BadRequest(f"a part of the {label} is missing (RFC 2231)")
        raw, encoded = pieces[number]
        if number == 0 and encoded:
            if (match_value := _EXTENDED_VALUE.match(raw)) is None:
                raise BadRequest(f"the extended value of the {label} has no charset (RFC 5987)")
            charset, raw = match_value[1].decode("ascii"), match_value[2]
        joined += _percent_decode(raw, label) if encoded else raw
    if not pieces:
        raise BadRequest(f"the parameters of the {label} are malformed (RFC 2231)")
    return decode_text(joined, charset, label)


def _decode_words(text: str, label: str) -> str:
    """Decode encoded words (RFC 2047); white space between two of them is no part of the text (6.2)."""
    return "".join(_decode_word(match[1], match[2], match[3], label) for match in _ENCODED_WORD.finditer(text))


def _decode_word(charset: str, encoding: str, content: str, label: str) -> str:
    if encoding in "Bb":
        try:
            raw = base64.b64decode(content, validate=True)
        except binascii.Error as error:
            raise BadRequest(f"the {label} is an encoded word that is not base64") from error
    else:
        raw = quopri.decodestring(content, header=True)
    return decode_text(raw, charset, label)
