"""`GET /status` of a service: readiness checks, version and live figures of one process, for the gateway, which gathers them."""

import asyncio
import time
from collections.abc import Mapping

from fastapi import FastAPI
from pydantic import BaseModel, Field

from services.common.telemetry.figures import read_figures
from services.common.web.health import ReadinessCheck, run_readiness_checks

STATUS_PATH = "/status"


class ProcessStatus(BaseModel):
    """One process. Its address is how the gateway reaches it."""

    address: str = Field("", description="as the gateway knows it; empty for the gateway itself")
    ready: bool
    checks: dict[str, str] = Field(description="readiness checks by name: `ok`, or what is wrong")
    version: str | None = Field(description="null where the process did not answer")
    uptime: float | None = Field(description="seconds since the start; null where the process did not answer")
    figures: dict[str, float] = Field(description="counters since the start, and gauges; those that are 0 are left out")


async def read_status(app: FastAPI, checks: Mapping[str, ReadinessCheck], started_at: float) -> ProcessStatus:
    """Return the status of this process. `started_at`: on the monotonic clock, seconds."""
    results = await run_readiness_checks(checks)
    figures = await asyncio.to_thread(read_figures)
    return ProcessStatus(
        ready=all(result == "ok" for result in results.values()),
        checks=results,
        version=app.version,
        uptime=round(time.monotonic() - started_at, 1),
        figures=figures,
    )


def add_status_route(app: FastAPI, checks: Mapping[str, ReadinessCheck]) -> None:
    """Add the route to a service. It needs the right `admin` where authentication is on."""
    started_at = time.monotonic()

    @app.get(STATUS_PATH, tags=["health"])
    async def get_process_status() -> ProcessStatus:
        """Readiness checks, version and live figures of this process."""
        return await read_status(app, checks, started_at)
