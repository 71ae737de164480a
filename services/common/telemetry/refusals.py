"""Logs a request or a handshake that is refused before an application gets it: with its id, the client and the reason."""

import logging

from services.common.errors import GridcastError
from services.common.http.secret_paths import redact_path
from services.common.telemetry.access_log import ACCESS_LOGGER

_log = logging.getLogger(ACCESS_LOGGER)


def log_refusal(message: str, error: GridcastError, request_id: str, client: str, path: str | None = None) -> None:
    """Write a line. `client`: its address. `path`: where it is known, and without the query, which may contain a secret.

    A secret in the path itself is redacted.
    """
    fields: dict[str, object] = {
        "request_id": request_id,
        "client": client,
        "status": error.status,
        "reason": error.detail,
    }
    if path is not None:
        fields["path"] = redact_path(path)
    _log.info(message, extra={"fields": fields})
