"""Selects the header fields that decide a response. Pure."""

# The others are not decoded.
_RELEVANT_HEADERS = {
    b"range": "range",
    b"if-range": "if-range",
    b"if-match": "if-match",
    b"if-none-match": "if-none-match",
    b"if-modified-since": "if-modified-since",
    b"if-unmodified-since": "if-unmodified-since",
    b"cache-control": "cache-control",
}


def select_headers(raw_headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the relevant headers by name; several of one name are joined to one list (RFC 9110, 5.3)."""
    fields: dict[str, str] = {}
    for name, value in raw_headers:
        if (key := _RELEVANT_HEADERS.get(name)) is not None:
            text = value.decode("latin-1")
            fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields
