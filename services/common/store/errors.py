"""Errors of a store without an HTTP status: the caller decides what it answers to the client."""


class CorruptFile(Exception):
    """Stored blocks of a file are missing or differ from its metadata in length or number."""


class InvalidStoreSettings(RuntimeError):
    """The store cannot be opened with these settings. The text contains no part of an address."""
