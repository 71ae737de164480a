"""Whether a client takes gzip (RFC 9110, 12.5.3). Pure."""

from functools import lru_cache


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether gzip is acceptable to a client that sends this Accept-Encoding, several fields joined by commas.

    What is malformed is not accepted: a list without a coding is right for everyone.
    """
    weights: dict[str, float] = {}
    for element in accept_encoding.lower().split(","):
        coding, *parameters = (part.strip(" \t") for part in element.split(";"))
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip(" \t") == "q":
                try:
                    weight = float(value.strip(" \t"))
                except ValueError:
                    weight = 0.0
        weights[coding] = weight
    wanted = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return 0.0 < wanted <= 1.0
