"""`GET /status`: readiness, versions and live figures of every process, gathered from the replicas of all services.

The gateway verifies no tokens: it passes the caller's credential on, each replica judges it by the right `admin`, and one refusal
is the response. Where authentication is on and no replica answered, nothing is shown.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping

from fastapi import FastAPI, Request
from pydantic import BaseModel, ValidationError

from gateway.upstream.connection_pool import ConnectionPool
from gateway.upstream.readiness import SmallResponse, fetch_response
from gateway.upstream.upstream_pool import Upstream, UpstreamPool
from services.common.errors import BadRequest, Forbidden, GridcastError, ServiceUnavailable, Unauthorized
from services.common.http.headers import Header, find_header
from services.common.http.problem import decode_problem_detail
from services.common.web.health import ReadinessCheck
from services.common.web.openapi import openapi_problems
from services.common.web.status import STATUS_PATH, ProcessStatus, read_status


class ServiceStatus(BaseModel):
    """One service: ready if one of its replicas is."""

    service: str
    ready: bool
    replicas: list[ProcessStatus]


class Status(BaseModel):
    """The instance as this gateway sees it."""

    gateway: ProcessStatus
    services: list[ServiceStatus]


class StatusGatherer:
    """Asks all replicas at once."""

    def __init__(
        self, connection_pool: ConnectionPool, pools: Mapping[str, UpstreamPool], *, needs_approval: bool
    ) -> None:
        """`needs_approval`: authentication is on, so a replica must have accepted the credential before anything is shown."""
        self._connection_pool = connection_pool
        self._pools = pools
        self._needs_approval = needs_approval

    async def gather(self, fields: Iterable[Header]) -> list[ServiceStatus]:
        """Return the status of each service. `fields`: the credential. Raises Unauthorized, Forbidden, ServiceUnavailable."""
        credential = [(name, value) for name, value in fields if name == b"authorization"]
        pools = [(name, list(pool.upstreams)) for name, pool in self._pools.items()]
        asked = [upstream for _, upstreams in pools for upstream in upstreams]
        answers = dict(zip(asked, await asyncio.gather(*(self._ask(one, credential) for one in asked)), strict=True))
        if self._needs_approval and not any(answer.version for answer in answers.values()):
            raise ServiceUnavailable("no service can judge the token at the moment", retry_after=5)
        services = [(name, [answers[upstream] for upstream in upstreams]) for name, upstreams in pools]
        return [
            ServiceStatus(service=name, ready=any(one.ready for one in replicas), replicas=replicas)
            for name, replicas in services
        ]

    async def _ask(self, upstream: Upstream, credential: list[Header]) -> ProcessStatus:
        try:
            response = await fetch_response(self._connection_pool, upstream, STATUS_PATH, credential)
        except ServiceUnavailable:
            return _silent(upstream, "no answer")
        if response.status in {400, 401, 403}:
            raise _refusal(response)
        try:
            if response.status == 200:
                return ProcessStatus.model_validate_json(response.body).model_copy(update={"address": upstream.origin})
        except ValidationError:
            pass
        return _silent(upstream, decode_problem_detail(response.body) or "not ready")


def _silent(upstream: Upstream, reason: str) -> ProcessStatus:
    return ProcessStatus(
        address=upstream.origin, ready=False, checks={"process": reason}, version=None, uptime=None, figures={}
    )


def _refusal(response: SmallResponse) -> GridcastError:
    """Return the refusal of a replica as an error of the gateway."""
    detail = decode_problem_detail(response.body) or "refused"
    if response.status == 400:
        return BadRequest(detail.removeprefix("Validation Error: "))
    error: GridcastError = Unauthorized(detail) if response.status == 401 else Forbidden(detail)
    challenge = find_header(response.headers, b"www-authenticate")
    if challenge is not None:
        error.headers["www-authenticate"] = challenge.decode("latin-1")
    return error


def add_status_route(app: FastAPI, gatherer: StatusGatherer, checks: Mapping[str, ReadinessCheck]) -> None:
    """Add the route. `checks`: the readiness checks of the gateway, one for each service."""
    started_at = time.monotonic()

    @app.get(STATUS_PATH, tags=["health"], responses=openapi_problems(400, 503))
    async def get_status(request: Request) -> Status:
        """Readiness, versions and live figures of the gateway and of each replica."""
        services = await gatherer.gather(request.scope["headers"])
        return Status(gateway=await read_status(app, checks, started_at), services=services)
