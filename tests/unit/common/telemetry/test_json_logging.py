"""The JSON log and the access log in a process of their own, as a service has them: their lines have one format and keep their
order.
"""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

PROGRAM = """
import asyncio, logging
from services.common.settings import Settings
from services.common.telemetry.request_id import request_id_var
from services.common.telemetry.request_telemetry import start_telemetry

async def main():
    telemetry = start_telemetry("test", Settings(log_level="{level}"))
    log = logging.getLogger("gridcast.test")
    def request(path, more=None):
        telemetry.record("abc", "GET", path, "route", 206, 5, 0, 0.0000384, more)
    request("/one")
    log.warning("two", extra={{"fields": {{"status": 1}}}})
    request('/"three"\\n\\u2028\\ud800', {{"upstream": "http://[::1]:8", "tried": None, "first": 0.5, "n": 3}})
    token = request_id_var.set("an-id")
    try:
        raise ValueError("a\\nb")
    except ValueError:
        log.exception("four")
    request("/five")  # and the process ends
asyncio.run(main())
"""


def run_and_read_log(level: str) -> list[dict[str, Any]]:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(level=level)], capture_output=True, text=True, check=True, timeout=30
    )
    assert run.stdout == ""
    return [json.loads(line) for line in run.stderr.splitlines()]


def test_lines_are_json_in_order_and_the_last_one_is_written() -> None:
    before = datetime.now(UTC)
    one, two, three, four, five = run_and_read_log("info")
    assert {key: one[key] for key in one if key != "time"} == {
        "level": "info",
        "service": "test",
        "logger": "gridcast.access",
        "message": "request",
        "request_id": "abc",
        "method": "GET",
        "path": "/one",
        "status": 206,
        "bytes_sent": 5,
        "bytes_received": 0,
        "duration": 0.000038,
    }
    assert (two["message"], two["level"], two["status"]) == ("two", "warning", 1)
    assert (three["path"], three["upstream"], three["tried"]) == ('/"three"\n\u2028\ud800', "http://[::1]:8", None)
    assert (three["first"], three["n"]) == (0.5, 3)
    assert (four["message"], four["request_id"]) == ("four", "an-id")
    assert "ValueError: a\nb" in four["exception"]
    assert five["path"] == "/five"
    times = [datetime.fromisoformat(entry["time"]) for entry in (one, two, three, four, five)]
    assert times == sorted(times)
    assert abs(times[0] - before) < timedelta(seconds=30)
    assert [list(entry)[:5] for entry in (one, two)] == [["time", "level", "service", "logger", "message"]] * 2


def test_access_log_is_silent_at_warning_level() -> None:
    assert [entry["message"] for entry in run_and_read_log("warning")] == ["two", "four"]
