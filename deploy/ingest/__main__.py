"""Starts the ingest: `python -m deploy.ingest`, in a container or beside a local run. docs/live-ingest.md describes it."""

import json
import os
import secrets
import shutil
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from deploy.ingest.listeners import (
    PROTOCOLS_WITH_KEY,
    IngestSettings,
    InvalidIngestSettings,
    publisher_url,
    read_settings,
)
from deploy.ingest.live_api import LiveApi
from deploy.ingest.publishing import ListenerLoop

TOUCH_SECONDS = 5.0


def main() -> int:
    """Run until SIGTERM or SIGINT. Returns 1 for wrong settings."""
    try:
        given = _read_secret("INGEST_KEY")
        settings = read_settings({**os.environ, "INGEST_KEY": given}, secrets.token_hex(16))
        _read_secret("INGEST_TOKEN")
    except InvalidIngestSettings as error:
        print(f"gridcast: {error}", file=sys.stderr)
        return 1
    if shutil.which("ffmpeg") is None:
        print("gridcast: the ingest needs ffmpeg, which is not installed", file=sys.stderr)
        return 1
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _announce(settings, key_is_new=not given)
    log = _Log(settings.key)
    # A token in a file may be renewed while this runs.
    api = LiveApi(settings.url, lambda: _read_secret("INGEST_TOKEN"))
    loops = [ListenerLoop(listener, settings, api, stopping, log) for listener in settings.listeners]
    threads = [threading.Thread(target=loop.run) for loop in loops]
    for thread in threads:
        thread.start()
    heartbeat = os.environ.get("INGEST_HEARTBEAT")
    while not stopping.wait(TOUCH_SECONDS if heartbeat else None):
        if all(thread.is_alive() for thread in threads):
            Path(heartbeat or os.devnull).touch()
    for thread in threads:
        thread.join()
    return 0


class _Log:
    """Writes JSON lines as the services do, without the key, which ffmpeg names in its errors."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, level: str, text: str) -> None:
        text = text.replace(self._key, "-")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": now, "level": level, "service": "ingest", "logger": "gridcast.ingest", "message": text}
        print(json.dumps(line), file=sys.stderr, flush=True)


def _announce(settings: IngestSettings, *, key_is_new: bool) -> None:
    """Print where publishers send to; with the key where it was made just now, because nothing else has it."""
    key = settings.key if key_is_new else "KEY"
    for listener in settings.listeners:
        shown = key if listener.protocol in PROTOCOLS_WITH_KEY else ""
        print(f"{listener.protocol}: {publisher_url(listener, settings.host, shown)}", flush=True)
    if heartbeat := os.environ.get("INGEST_HEARTBEAT"):
        Path(heartbeat).touch()


def _read_secret(name: str) -> str:
    """Return the value of a variable, or of the file that NAME_FILE names. Raises InvalidIngestSettings."""
    path = os.environ.get(f"{name}_FILE")
    if not path:
        return os.environ.get(name, "")
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        raise InvalidIngestSettings(f"{name}_FILE names a file that cannot be read") from None


if __name__ == "__main__":
    sys.exit(main())
