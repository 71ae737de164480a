"""Motor's own bucket stream behind FastAPI: the body goes piece by piece into `open_upload_stream`, journalled as in our service.

Written for comparison only. Nothing is hashed, no name is unique, and interrupted uploads are left.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorGridFSBucket


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        os.environ["GRIDCAST_MONGODB_URI"], w="majority", journal=True
    )
    app.state.bucket = AsyncIOMotorGridFSBucket(client[os.environ["GRIDCAST_MONGODB_DATABASE"]])
    yield
    client.close()


app = FastAPI(lifespan=lifespan)


@app.put("/file/stream", status_code=201)
async def upload(request: Request, filename: str) -> str:
    stream = request.app.state.bucket.open_upload_stream(filename)
    async for piece in request.stream():
        if piece:
            await stream.write(piece)
    await stream.close()
    return str(stream._id)
