"""Fetches the key set of an identity provider over HTTP: one of the two files of the services that name httpx.

No redirect is followed, no proxy of the environment is used, and the body is bounded.
"""

import asyncio

import httpx

TIMEOUT_SECONDS = 5.0
"""For each wait for bytes."""
TOTAL_TIMEOUT_SECONDS = 10.0
MAX_BODY_BYTES = 256 * 1024


class JwksFetcher:
    """Fetches one URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self) -> bytes:
        """Return the body of a 200. Raises ValueError, whose text has neither the URL nor the body, and TimeoutError."""
        try:
            async with (
                asyncio.timeout(TOTAL_TIMEOUT_SECONDS),  # httpx has none for the whole
                httpx.AsyncClient(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False) as client,
                client.stream(
                    "GET", self._url, headers={"accept": "application/json", "accept-encoding": "identity"}
                ) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise ValueError(f"the endpoint answered with {response.status_code}")
                body = b""
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_BODY_BYTES:
                        raise ValueError(f"the endpoint sent more than {MAX_BODY_BYTES} bytes")
                return body
        except httpx.HTTPError as error:
            raise ValueError(f"the endpoint could not be reached ({type(error).__name__})") from None
