"""Media facts as values: duration, size in pixels, codecs, rotation and tags of one file, and their JSON. Pure."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["video", "audio", "image"]

MAX_DURATION_SECONDS = 10 * 365 * 86400.0
"""Longer durations are a sign of a broken header."""
MAX_PIXELS = 1 << 20
"""Greater widths and heights are a sign of a broken header."""
MAX_CODECS = 8
MAX_CODEC_LENGTH = 64
MAX_TAG_LENGTH = 200
"""Characters of a tag's value; the rest is cut off."""
TAG_NAMES = ("title", "artist", "album", "album_artist", "composer", "genre", "date", "track")
NO_FACTS_JSON = "null"
"""The facts of a file that was examined and is no media file that we know."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]+")


@dataclass(frozen=True, slots=True)
class MediaFacts:
    """What a container says of its file; None for what it does not say.

    `duration` in seconds. `width` and `height` in pixels as stored; `rotation` is by how many degrees clockwise a player turns
    them (0, 90, 180 or 270). `codecs` as in the `codecs` parameter of a media type (RFC 6381), video first. `tags` has keys of
    `TAG_NAMES`.
    """

    kind: Kind
    duration: float | None = None
    width: int | None = None
    height: int | None = None
    codecs: tuple[str, ...] = ()
    rotation: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return one JSON object, at most about 8 KiB of UTF-8."""
        members = {
            "kind": self.kind,
            "duration": self.duration,
            "width": self.width,
            "height": self.height,
            "codecs": list(self.codecs),
            "rotation": self.rotation,
            "tags": dict(self.tags),
        }
        return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class FactsDraft:
    """Facts while a file is being read. The setters ignore what cannot be true."""

    kind: Kind | None = None
    duration: float | None = None
    width: int | None = None
    height: int | None = None
    codecs: list[str] = field(default_factory=list)
    rotation: int | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def set_duration(self, units: float, units_per_second: float) -> None:
        """Set the duration, given in units and how many of them make a second."""
        if units_per_second > 0 and 0 < units <= MAX_DURATION_SECONDS * units_per_second:
            seconds = units / units_per_second
            self.duration = round(seconds, 3) if math.isfinite(seconds) else None

    def set_size(self, width: int, height: int) -> None:
        """Set width and height in pixels."""
        if 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS:
            self.width, self.height = width, height

    def add_codec(self, codec: str) -> None:
        """Add a codec once, where it is printable."""
        known = len(self.codecs) < MAX_CODECS and codec not in self.codecs
        if codec and known and len(codec) <= MAX_CODEC_LENGTH and codec.isascii() and codec.isprintable():
            self.codecs.append(codec)

    def add_tag(self, name: str | None, value: str) -> None:
        """Add a tag of `TAG_NAMES`; the first one of a name stays. Control characters become spaces."""
        # Cut before cleaning, which costs time.
        text = _CONTROLS.sub(" ", value[: 2 * MAX_TAG_LENGTH].replace("\x00", "")).strip()[:MAX_TAG_LENGTH].strip()
        if name in TAG_NAMES and text and name not in self.tags:
            self.tags[name] = text

    def finish(self) -> MediaFacts | None:
        """Return the facts, None where not even the kind is known."""
        if self.kind is None:
            return None
        return MediaFacts(
            self.kind, self.duration, self.width, self.height, tuple(self.codecs), self.rotation, dict(self.tags)
        )


def facts_json(facts: MediaFacts | None) -> str:
    """Return the JSON of facts, `null` where there are none."""
    return NO_FACTS_JSON if facts is None else facts.to_json()
