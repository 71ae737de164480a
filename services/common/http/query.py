"""Parses query strings, by one rule for all services.

Programs read bytes that are not UTF-8, and two values of one name, in different ways: the first are rejected everywhere, the second
wherever a parameter has one value.
"""

from urllib.parse import parse_qsl

from services.common.errors import BadRequest

MAX_QUERY_PARAMETERS = 16


def parse_query_pairs(query: bytes) -> list[tuple[str, str]]:
    """Return the parameters in their order, percent-decoded. Raises BadRequest, also for more than MAX_QUERY_PARAMETERS."""
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_PARAMETERS
        )
    except ValueError as error:
        raise BadRequest("the query string is not percent-encoded UTF-8") from error


def parse_query(query: bytes) -> dict[str, str]:
    """Return the parameters, each of which has one value. Raises BadRequest."""
    pairs = parse_query_pairs(query)
    values = dict(pairs)
    if len(values) != len(pairs):
        raise BadRequest("duplicate query parameter")
    return values
