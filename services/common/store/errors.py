"""Errors of a store that are no answer to a client: the caller decides what a client is told."""


class CorruptFile(Exception):
    """Stored blocks of a file are missing or differ from its metadata in length or number."""
