"""Translates the errors of the distribution `gridcast` into the services' errors, with the same text."""

from collections.abc import Iterator
from contextlib import contextmanager

from gridcast.errors import EventTooLarge, InvalidEvent, PublishError, RedisRefusesWrites
from services.common.errors import BadRequest, ContentTooLarge, GridcastError, ServiceUnavailable


class WritesRefused(ServiceUnavailable):
    """503: Redis responds and takes no writes; the detail names the reason. What is only read is still to be had."""


def translate_bus_error(error: PublishError) -> GridcastError:
    """400 for an invalid event, 413 for one that is too large, 503 for an unavailable Redis."""
    match error:
        case EventTooLarge():
            return ContentTooLarge(str(error))
        case InvalidEvent():
            return BadRequest(str(error))
        case RedisRefusesWrites():
            return WritesRefused(str(error))
        case _:
            return ServiceUnavailable(str(error))


@contextmanager
def translated_bus_errors() -> Iterator[None]:
    """Raises the services' error in place of each PublishError in the block."""
    try:
        yield
    except PublishError as error:
        raise translate_bus_error(error) from None
