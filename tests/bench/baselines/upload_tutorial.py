"""How a tutorial stores an upload in GridFS with FastAPI: the framework spools the form, then the driver stores it in a thread.

Written for comparison only.
"""

import os
from typing import Annotated

import gridfs
import pymongo
from fastapi import FastAPI, Form, HTTPException, UploadFile

client: pymongo.MongoClient[dict[str, object]] = pymongo.MongoClient(os.environ["GRIDCAST_MONGODB_URI"])
files = gridfs.GridFS(client[os.environ["GRIDCAST_MONGODB_DATABASE"]])
app = FastAPI()


@app.post("/file/upload", status_code=201)
def upload(file: UploadFile, folder: Annotated[str, Form()] = "") -> str:
    name = f"{folder}/{file.filename}" if folder else str(file.filename)
    if files.exists(filename=name):
        raise HTTPException(409, "Not Unique")
    return str(files.put(file.file, filename=name, contentType=file.content_type))
