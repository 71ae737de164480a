"""How a tutorial streams video out of GridFS with FastAPI: one seek through the driver, then small reads in a thread.

Written for comparison only. It reads what the upload service stored: `fs.files` and `fs.chunks` are the standard layout.
"""

import os
from collections.abc import Iterator
from typing import Annotated

import gridfs
import pymongo
from fastapi import FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse

PIECE = 14 * 1024

client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(os.environ["GRIDCAST_MONGODB_URI"])
files = gridfs.GridFS(client[os.environ["GRIDCAST_MONGODB_DATABASE"]])
app = FastAPI()


def pieces(stored: gridfs.GridOut, first: int, last: int) -> Iterator[bytes]:
    stored.seek(first)
    left = last - first + 1
    while left:
        piece = stored.read(min(PIECE, left))
        left -= len(piece)
        yield piece


@app.get("/file/stream")
def stream(
    filename: str, folder: str = "", wanted: Annotated[str | None, Header(alias="range")] = None
) -> StreamingResponse:
    stored = files.find_one({"filename": f"{folder}/{filename}" if folder else filename})
    if stored is None:
        raise HTTPException(404, "file not found")
    first, last = 0, stored.length - 1
    if wanted:
        begin, _, end = wanted.removeprefix("bytes=").partition("-")
        first, last = int(begin), int(end) if end else last
    headers = {
        "Content-Range": f"bytes {first}-{last}/{stored.length}",
        "Content-Length": str(last - first + 1),
        "Accept-Ranges": "bytes",
    }
    return StreamingResponse(
        pieces(stored, first, last), 206 if wanted else 200, headers=headers, media_type="video/webm"
    )
