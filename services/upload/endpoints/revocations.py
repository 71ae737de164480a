"""POST /auth/revocations: revokes a token or all tokens of a subject. In this service because it may write into the store."""

import time
from typing import Annotated

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from services.common.auth.keys import LEEWAY_SECONDS, MAX_SUBJECT_LENGTH
from services.common.auth.revocations import Revocation
from services.common.auth.signed_links import MAX_LINK_LIFE_SECONDS
from services.common.errors import BadRequest
from services.common.web.json_route import JSONRoute
from services.common.web.openapi import openapi_problems
from services.common.web.routers import create_router
from services.upload.endpoints.dependencies import UploadContext, upload_context

router = create_router("auth", route_class=JSONRoute)

_Name = Annotated[str | None, Field(min_length=1, max_length=MAX_SUBJECT_LENGTH)]


class RevocationRequest(BaseModel):
    """What to revoke: one of both."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"subject": "alice"}]})

    subject: _Name = Field(None, description="all tokens of this subject that were issued until now")
    token_id: _Name = Field(None, description="the token with this jti")


class RevocationResponse(BaseModel):
    """A revocation that is stored."""

    subject: str | None
    token_id: str | None
    before: float = Field(description="Unix time: tokens that are issued later are accepted")
    until: float = Field(description="Unix time at which the last such token or link has ended by itself")


@router.post("/auth/revocations", status_code=201, responses=openapi_problems(400, 413, 415, 503))
async def revoke_tokens(request: Request, revocation: RevocationRequest) -> RevocationResponse:
    """Revoke a token or a subject. Within two seconds its sockets are closed, and its requests and links end, on every replica.

    While authentication is off it is stored, and has its effect when authentication is on.
    """
    context: UploadContext = upload_context(request)
    value = revocation.subject or revocation.token_id
    if value is None or (revocation.subject and revocation.token_id):
        raise BadRequest("give either subject or token_id")
    now = time.time()
    until = now + max(context.settings.auth_max_token_life, MAX_LINK_LIFE_SECONDS) + 2 * LEEWAY_SECONDS
    await context.revoke(Revocation("subject" if revocation.subject else "token", value, now, until))
    return RevocationResponse(subject=revocation.subject, token_id=revocation.token_id, before=now, until=until)
