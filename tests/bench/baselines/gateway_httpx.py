"""How a tutorial writes a gateway with FastAPI: one shared `httpx.AsyncClient`, streaming both ways.

Written for comparison only. It has no WebSockets.
"""

import os

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

UPSTREAM = os.environ["UPSTREAM_URL"]
HOP_BY_HOP = {"host", "connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}

app = FastAPI()
client = httpx.AsyncClient(base_url=UPSTREAM, timeout=60.0)


@app.api_route("/{path:path}", methods=["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"])
async def forward(path: str, request: Request) -> StreamingResponse:
    headers = {name: value for name, value in request.headers.items() if name not in HOP_BY_HOP}
    has_body = "content-length" in headers or "transfer-encoding" in request.headers
    outgoing = client.build_request(
        request.method,
        f"/{path}",
        params=request.query_params,
        headers=headers,
        content=request.stream() if has_body else None,
    )
    answer = await client.send(outgoing, stream=True)
    kept = {name: value for name, value in answer.headers.items() if name not in HOP_BY_HOP}
    return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))
