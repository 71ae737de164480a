"""The state file of an unfinished upload: JSON, readable by its owner alone, replaced in one step."""

import json
import os
from pathlib import Path

from gridcast._flows.uploads import SavedUpload

STATE_VERSION = 1
MAX_STATE_BYTES = 64 * 1024


class StateFile:
    """Keeps one unfinished upload for the process that continues it.

    `server` is part of what is kept: an address of another server is never used. The address is not a credential, but a name that
    others need not know, so the file has mode 0600.
    """

    def __init__(self, path: Path, server: str) -> None:
        self._path = path
        self._server = server

    def load(self) -> SavedUpload | None:
        try:
            with self._path.open("rb") as file:
                document = json.loads(file.read(MAX_STATE_BYTES))
            if document["version"] != STATE_VERSION or document["server"] != self._server:
                return None
            saved = SavedUpload(
                str(document["address"]), str(document["path"]), int(document["size"]), str(document["fingerprint"])
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return saved if saved.address.startswith("/file/tus/") else None

    def save(self, upload: SavedUpload) -> None:
        document = {
            "version": STATE_VERSION,
            "server": self._server,
            "address": upload.address,
            "path": upload.path,
            "size": upload.size,
            "fingerprint": upload.fingerprint,
        }
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = self._path.with_name(f".{self._path.name[:200]}.{os.getpid()}.tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(document, file)
        temporary.replace(self._path)

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
