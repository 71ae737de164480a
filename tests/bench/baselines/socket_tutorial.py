"""How a tutorial pushes to browsers with FastAPI: a dict of sids, and a loop that awaits each socket in turn.

Written for comparison only. What is published to the Redis channel `broadcast` goes to every socket.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from uuid import uuid4

import redis.asyncio
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

CHANNEL = "broadcast"


class ConnectionManager:
    def __init__(self) -> None:
        self.connections: dict[str, WebSocket] = {}

    async def connect(self, websocket: WebSocket) -> str:
        await websocket.accept()
        sid = str(uuid4())
        self.connections[sid] = websocket
        await websocket.send_json({"sid": sid})
        return sid

    def disconnect(self, sid: str) -> None:
        self.connections.pop(sid, None)

    async def broadcast(self, text: str) -> None:
        for websocket in list(self.connections.values()):
            # A closed socket is removed by its own task.
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await websocket.send_text(text)


manager = ConnectionManager()


async def listen() -> None:
    client = redis.asyncio.from_url(os.environ["GRIDCAST_REDIS_URL"])
    async with client.pubsub() as subscription:
        await subscription.subscribe(CHANNEL)
        async for message in subscription.listen():
            if message["type"] == "message":
                await manager.broadcast(message["data"].decode())


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    listening = asyncio.create_task(listen())
    yield
    listening.cancel()


app = FastAPI(lifespan=lifespan)


@app.websocket("/ws")
async def socket(websocket: WebSocket) -> None:
    sid = await manager.connect(websocket)
    try:
        while True:
            await websocket.receive_text()
            await websocket.send_json({"pong": True})
    except WebSocketDisconnect:
        manager.disconnect(sid)
