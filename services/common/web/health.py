"""Health routes: `/livez`, `/readyz` and `/version` of every service and of the gateway."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from services.common.errors import GridcastError

ReadinessCheck = Callable[[], Awaitable[object]]

READINESS_CHECK_TIMEOUT_SECONDS = 2.0
"""A readiness check that takes longer has failed."""

_log = logging.getLogger("gridcast.web")


def add_health_routes(app: FastAPI, readiness_checks: Mapping[str, ReadinessCheck]) -> None:
    """Add the routes. `readiness_checks` are awaited by /readyz, which shows their names and results."""

    @app.get("/livez", tags=["health"])
    async def get_liveness() -> dict[str, str]:
        """Whether the process runs; checks no dependency."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["health"], responses={503: {"description": "a check failed"}})
    async def get_readiness() -> JSONResponse:
        """Whether requests can be served: every check, with its result."""
        results = await run_readiness_checks(readiness_checks)
        ready = all(result == "ok" for result in results.values())
        content = {"status": "ready" if ready else "unavailable", "checks": results}
        return JSONResponse(content, 200 if ready else 503, {"cache-control": "no-store"})

    @app.get("/version", tags=["health"])
    async def get_version() -> dict[str, str]:
        """Name and version of the service."""
        return {"service": app.title, "version": app.version}


async def run_readiness_checks(checks: Mapping[str, ReadinessCheck]) -> dict[str, str]:
    """Await all checks at once and return their results by name: "ok", or what is wrong."""
    results = await asyncio.gather(*(_run_readiness_check(check) for check in checks.values()))
    return dict(zip(checks, results, strict=True))


async def _run_readiness_check(check: ReadinessCheck) -> str:
    try:
        async with asyncio.timeout(READINESS_CHECK_TIMEOUT_SECONDS):
            await check()
    except TimeoutError:
        return "timeout"
    except GridcastError as error:
        return error.detail
    except Exception:  # noqa: BLE001  # a check that raises has failed
        _log.exception("readiness check failed")
        return "failed"
    return "ok"
