"""Asks another application before an upload begins. Fails closed: without a valid answer in time the upload is refused."""

import math
import secrets
import time
from datetime import UTC, datetime

from services.common.errors import BadGateway, Forbidden, GridcastError, ServiceUnavailable
from services.common.telemetry import metrics
from services.common.webhooks.circuit_breaker import CircuitBreaker
from services.common.webhooks.endpoints import Endpoint
from services.common.webhooks.hook_protocol import EVENT_TYPE, HookAnswer, HookQuestion, parse_answer
from services.common.webhooks.http_sender import HTTPSender, Resolve, Resolver, SendError
from services.common.webhooks.messages import encode_message
from services.common.webhooks.signing import signature_headers

HOOK_TIMEOUT_SECONDS = 3.0
MAX_HOOK_ANSWER_BYTES = 16 * 1024
MAX_CONNECTIONS = 64
"""Questions at the same time. More uploads are refused: one that waited would be counted as a failure of the hook."""
_UNAVAILABLE = "the upload hook gives no valid answer"


class UploadHook:
    """The hook of one process."""

    def __init__(self, endpoint: Endpoint, resolve: Resolve | None = None) -> None:
        self._endpoint = endpoint
        self._resolver = Resolver()
        self._sender = HTTPSender(
            endpoint.url, is_private_allowed=True, max_connections=MAX_CONNECTIONS, resolve=resolve or self._resolver
        )
        self._breaker = CircuitBreaker(time.monotonic)
        self._asking = 0

    async def ask(self, question: HookQuestion) -> HookAnswer:
        """Return the answer that allows the upload.

        Raises Forbidden where the hook denies it, BadGateway where its answer has a fault, ServiceUnavailable where there is none.
        """
        if self._asking >= MAX_CONNECTIONS:
            metrics.UPLOAD_HOOK_CALLS.labels("busy").inc()
            raise ServiceUnavailable("too many uploads wait for the upload hook")
        if not self._breaker.try_acquire():
            metrics.UPLOAD_HOOK_CALLS.labels("open").inc()
            raise ServiceUnavailable(_UNAVAILABLE, max(1, math.ceil(self._breaker.retry_after)))
        outcome = "failed"
        is_recorded = False
        self._asking += 1
        try:
            answer = parse_answer(await self._send(question))
            outcome = "allowed"
        except (SendError, ValueError) as error:
            self._breaker.record(success=False)
            is_recorded = True
            raise ServiceUnavailable(f"{_UNAVAILABLE}: {error}") from None
        except GridcastError as error:
            outcome = {Forbidden: "denied", BadGateway: "invalid"}[type(error)]
            raise
        finally:
            self._asking -= 1
            if outcome != "failed":
                self._breaker.record(success=True)
            elif not is_recorded:  # cancelled
                self._breaker.release()
            metrics.UPLOAD_HOOK_CALLS.labels(outcome if outcome != "failed" or is_recorded else "cancelled").inc()
        return answer

    async def _send(self, question: HookQuestion) -> bytes:
        identifier = secrets.token_hex(12)
        body = encode_message(EVENT_TYPE, identifier, datetime.now(UTC), question.to_dict())
        headers = signature_headers(self._endpoint.secrets, identifier, int(time.time()), body)
        found = await self._sender.post(
            headers, body, timeout_seconds=HOOK_TIMEOUT_SECONDS, max_answer_bytes=MAX_HOOK_ANSWER_BYTES
        )
        if found.status != 200:
            raise SendError(f"status {found.status}")
        if not found.is_complete:
            raise SendError("the answer is too long")
        if found.media_type != "application/json" and not found.media_type.endswith("+json"):
            raise SendError("the answer is not JSON")
        return found.body

    async def aclose(self) -> None:
        """Close all connections."""
        await self._sender.aclose()
        self._resolver.close()
