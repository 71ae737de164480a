"""The description of a stored file as a schema of OpenAPI: what several services respond with."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

FILE_EXAMPLE: JsonDict = {
    "id": "6923a7d1c5f0a1b2c3d4e5f6",
    "folder": "demo",
    "filename": "holiday.webm",
    "length": 1048576,
    "content_type": "video/webm",
    "sha256": "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58",
    "etag": '"sha256-30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"',
    "uploaded_at": "2026-11-23T08:30:00.125+00:00",
    "metadata": {"title": "Our holiday"},
    "media_facts": {
        "kind": "video",
        "duration": 61.4,
        "width": 1280,
        "height": 720,
        "codecs": ["vp9", "opus"],
        "rotation": 0,
        "tags": {},
    },
    "poster": None,
    "revision": 1,
    "owner": "alice",
}


class FileMediaFacts(BaseModel):
    """What the container of a media file says; null for what it does not say."""

    kind: Literal["video", "audio", "image"]
    duration: float | None = Field(description="seconds")
    width: int | None = Field(description="pixels as stored")
    height: int | None
    codecs: list[str] = Field(description="as in the parameter `codecs` of a media type (RFC 6381), video first")
    rotation: Literal[0, 90, 180, 270] | None = Field(
        description="degrees clockwise by which a player turns the picture"
    )
    tags: dict[str, str] = Field(description="title, artist, album, album_artist, composer, genre, date, track")


class FileInfo(BaseModel):
    """One stored file."""

    model_config = ConfigDict(json_schema_extra={"examples": [FILE_EXAMPLE]})

    id: str = Field(description="stays when the file is replaced")
    folder: str
    filename: str
    length: int = Field(description="bytes")
    content_type: str
    sha256: str | None = Field(description="lower-case hex, null where the store has none")
    etag: str = Field(description="strong entity tag with its quotes")
    uploaded_at: str = Field(description="ISO 8601, UTC")
    metadata: dict[str, Any] = Field(description="what its uploader says of it: fields of the form, keys of tus")
    media_facts: FileMediaFacts | None = Field(
        description="null for other files; in lists also where they were not read yet"
    )
    poster: str | None = Field(description="entity tag of its poster, null where it has none")
    revision: int = Field(description="counts the changes of this name and never falls: the greater one is the newer")
    owner: str | None = Field(description="subject of the token with which this version was uploaded, null without one")
