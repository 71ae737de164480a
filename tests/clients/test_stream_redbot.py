"""REDbot checks the protocol as sent: ranges, validators and caching."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.databases import ServerProcess
from tests.support.media_library import MediaServices, run_media_services
from tests.support.videos import SampleVideos

IGNORED_NOTES = {"CONTENT_TYPE_MISMATCH", "STATUS_BAD_REQUEST"}
"""REDbot does not recognise the first bytes of the WebM that ffmpeg writes; the other note is about an intended 400."""


@pytest.fixture(scope="module")
def media_services(
    mongod: ServerProcess,
    redis_server: ServerProcess,
    tmp_path_factory: pytest.TempPathFactory,
    sample_videos: SampleVideos,
) -> Iterator[MediaServices]:
    with run_media_services(tmp_path_factory.mktemp("redbot"), mongod, redis_server.url, "test_stream_redbot") as lib:
        lib.put("minute.webm", sample_videos.webm)
        yield lib


def redbot_notes(url: str) -> dict[str, str]:
    """REDbot's notes with their level: GOOD, INFO, WARN or BAD."""
    program = Path(sys.executable).with_name("redbot")
    if not program.exists():
        pytest.skip("redbot is not installed")
    done = subprocess.run([program, "-o", "har", url], check=True, capture_output=True, timeout=60)
    (entry,) = json.loads(done.stdout)["log"]["entries"]
    return {note["note_id"]: note["level"] for note in entry["_red_messages"]}


@pytest.mark.parametrize(
    ("path", "good"),
    [
        (
            "/file/stream?filename=minute.webm",
            {"CL_CORRECT", "RANGE_CORRECT", "INM_304", "IMS_304", "CONTENT_TYPE_OPTIONS"},
        ),
        ("/file/stream?filename=none", {"CL_CORRECT"}),
        ("/file/stream?filename=..", {"CL_CORRECT"}),
        ("/file/info?filename=minute.webm", {"CL_CORRECT"}),
        ("/file", {"CL_CORRECT"}),
        ("/file/folders", {"CL_CORRECT"}),
    ],
)
def test_redbot_finds_no_fault(media_services: MediaServices, path: str, good: set[str]) -> None:
    found = redbot_notes(media_services.stream.url + path)
    assert {note for note, level in found.items() if level == "GOOD"} >= good
    assert {note for note, level in found.items() if level in {"WARN", "BAD"}} <= IGNORED_NOTES
