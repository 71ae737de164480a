"""The requests of one publisher to the live service, by way of the gateway: make a stream, send its bytes by tus, end it.

Blocking, over the standard library. A request that got no answer, or 5xx, may be repeated; the caller decides.
"""

import http.client
import json
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

REQUEST_TIMEOUT_SECONDS = 30.0
MAX_API_ANSWER_BYTES = 1024 * 1024
_TUS_VERSION = {"Tus-Resumable": "1.0.0"}


class ApiError(Exception):
    """The service refused. `status` is 0 where there was no answer."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status or 'no answer'}: {detail}")
        self.status = status
        self.is_temporary = status in {0, 408, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class PublishedStream:
    """A stream that was made here. `token` is its publish token, `tus` the path of its tus resource."""

    id: str
    token: str
    tus: str
    playlist: str


class LiveApi:
    """One server."""

    def __init__(self, url: str, read_token: Callable[[], str] = str) -> None:
        """`url` of the gateway; `read_token` returns a token with the right `publish`, empty for none. Asked for each stream."""
        self._url = urlsplit(url)
        self._read_token = read_token

    def create(self, folder: str, filename: str, title: str, grace: float) -> PublishedStream:
        """Make a stream. Raises ApiError: 409 where the name is taken."""
        wanted = {"folder": folder, "filename": filename, "title": title, "takeover": True, "grace": grace}
        headers = {"Content-Type": "application/json"}
        if token := self._read_token():
            headers["Authorization"] = f"Bearer {token}"
        _, body = self._request("POST", "/live", headers, json.dumps(wanted).encode())
        made: dict[str, Any] = json.loads(body)
        return PublishedStream(made["id"], made["publish_token"], made["tus"], made["playlist"])

    def begin(self, stream: PublishedStream) -> str:
        """Begin to send from byte 0. Returns the path that the bytes go to."""
        headers, _ = self._tus(stream, "POST", stream.tus, {"Upload-Defer-Length": "1"})
        return headers.get("location", stream.tus)

    def offset(self, stream: PublishedStream, path: str) -> int:
        """Return how many bytes are durable."""
        headers, _ = self._tus(stream, "HEAD", path, {})
        return int(headers["upload-offset"])

    def append(self, stream: PublishedStream, path: str, offset: int, data: bytes, *, is_last: bool = False) -> int:
        """Send bytes; with the last ones the stream ends. Returns how many are durable."""
        fields = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset)}
        if is_last:
            fields["Upload-Length"] = str(offset + len(data))
        headers, _ = self._tus(stream, "PATCH", path, fields, data)
        return int(headers["upload-offset"])

    def _tus(
        self, stream: PublishedStream, method: str, path: str, fields: dict[str, str], data: bytes | None = None
    ) -> tuple[dict[str, str], bytes]:
        return self._request(method, path, {**_TUS_VERSION, "Authorization": f"Bearer {stream.token}", **fields}, data)

    def _request(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None
    ) -> tuple[dict[str, str], bytes]:
        """Send one request. Returns the header fields in lower case, and the body. Raises ApiError."""
        host, port = self._url.hostname or "", self._url.port
        connection: http.client.HTTPConnection
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            connection = http.client.HTTPSConnection(host, port, timeout=REQUEST_TIMEOUT_SECONDS, context=context)
        else:
            connection = http.client.HTTPConnection(host, port, timeout=REQUEST_TIMEOUT_SECONDS)
        try:
            connection.request(method, f"{self._url.path}{path}", body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_API_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, type(error).__name__) from None
        finally:
            connection.close()
        if response.status >= 300:
            raise ApiError(response.status, _detail(answer))
        return {name.lower(): value for name, value in response.getheaders()}, answer


def _detail(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return "refused"
