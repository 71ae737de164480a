"""Vorbis comments, the tags of Ogg and FLAC (Vorbis I specification, 5; RFC 9639, 8.6). Pure."""

from services.common.containers.facts import FactsDraft

MAX_COMMENTS = 512
_COMMENT_NAMES = {
    "TITLE": "title",
    "ARTIST": "artist",
    "ALBUM": "album",
    "ALBUMARTIST": "album_artist",
    "ALBUM_ARTIST": "album_artist",
    "COMPOSER": "composer",
    "GENRE": "genre",
    "DATE": "date",
    "TRACKNUMBER": "track",
    "TRACK": "track",
}


def read_vorbis_comments(draft: FactsDraft, data: bytes, start: int) -> None:
    """Add the tags of the comment header at `start`; ends where `data` does."""
    position = start + 4 + int.from_bytes(data[start : start + 4], "little")
    count = int.from_bytes(data[position : position + 4], "little")
    position += 4
    for _ in range(min(count, MAX_COMMENTS)):
        if position + 4 > len(data):
            return
        size = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if position + size > len(data):
            return
        name, equals, value = data[position : position + min(size, 2048)].decode("utf-8", "replace").partition("=")
        if equals:
            draft.add_tag(_COMMENT_NAMES.get(name.upper()), value)
        position += size
