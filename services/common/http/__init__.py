"""HTTP semantics without I/O (RFC 9110, RFC 9112): parsing, encoding, dates, origins."""
