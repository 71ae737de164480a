"""The cover picture of sound files, as the web page reads it: files of ffmpeg, tags made by hand, and broken ones, in Node."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.static_files import PAGE_DIR
from tests.support.programs import require_program

PROGRAM = """
import { readFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { coverOf, mayHaveCover } from "./covers.js";
const files = JSON.parse(readFileSync("files.json", "utf-8"));
const found = {};
for (const path of files) {
  const bytes = readFileSync(path);
  let [reads, most] = [0, 0];
  const read = async (first, length) => {
    reads++;
    most = Math.max(most, length);
    return new Uint8Array(bytes.subarray(first, first + length));
  };
  const cover = await coverOf(read, bytes.length);
  found[path] = { type: cover?.type ?? null, digest: cover && createHash("sha256").update(cover.bytes).digest("hex"), reads, most };
}
// Cut off anywhere, and with wrong bytes: an answer within the bounds, and no error.
let state = 7;
const random = (below) => ((state = (state * 48271) % 2147483647), state % below);
let broken = 0;
for (const path of files) {
  const whole = readFileSync(path);
  for (let round = 0; round < 120; round++) {
    const bytes = Buffer.from(whole.subarray(0, round % 2 ? whole.length : random(Math.min(whole.length, 4000)) + 1));
    for (let change = 0; change < 1 + random(8); change++) bytes[random(Math.min(bytes.length, 400))] = random(256);
    await coverOf(async (first, length) => new Uint8Array(bytes.subarray(first, first + length)), bytes.length);
    broken++;
  }
}
const names = ["audio/mpeg", "audio/x-m4a", "video/mp4; a=b", "audio/flac", "audio/wav", "text/plain"];
const types = Object.fromEntries(names.map((type) => [type, mayHaveCover(type)]));
console.log(JSON.stringify({ found, broken, types }));
"""
ENCODED = {
    "id3v23.mp3": ["-c:a", "libmp3lame", "-id3v2_version", "3"],
    "id3v24.mp3": ["-c:a", "libmp3lame", "-id3v2_version", "4"],
    "index-last.m4a": ["-c:a", "aac"],
    "index-first.m4a": ["-c:a", "aac", "-movflags", "+faststart"],
    "native.flac": ["-c:a", "flac"],
}
PNG = b"\x89PNG\r\n\x1a\n\xff\x00\xff\xe0 not a whole picture \x00\x00"


def synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def tag(version: int, frames: bytes, flags: int = 0) -> bytes:
    return b"ID3" + bytes([version, 0, flags]) + synchsafe(len(frames)) + frames + b"\xff\xfb" + bytes(64)


def frame(version: int, body: bytes, name: bytes = b"APIC", flags: int = 0) -> bytes:
    if version == 2:
        return name[:3] + len(body).to_bytes(3, "big") + body
    size = synchsafe(len(body)) if version == 4 else len(body).to_bytes(4, "big")
    return name + size + bytes([0, flags]) + body


def unsynchronised(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff\x00\x00").replace(b"\xff\xe0", b"\xff\x00\xe0")


def body(kind: int = 3, encoding: int = 0, description: bytes = b"front\0", picture: bytes = PNG) -> bytes:
    return bytes([encoding]) + b"image/png\0" + bytes([kind]) + description + picture


MADE = {
    "v2.2": tag(2, frame(2, b"\0PNG\x03\0" + PNG, b"PIC")),
    "v2.3 wide text": tag(3, frame(3, body(encoding=1, description="Grüße".encode("utf-16") + b"\0\0"))),
    "v2.3 unsynchronised": tag(3, unsynchronised(frame(3, body())), 0x80),
    "v2.4 unsynchronised frame": tag(4, frame(4, bytes(4) + unsynchronised(body()), flags=0x03)),
    "front after another": tag(4, frame(4, body(kind=4, picture=PNG + b"back")) + frame(4, body())),
    "only another": tag(4, frame(4, b"\0text\0", b"TIT2") + frame(4, body(kind=0))),
}
NONE = {
    "compressed": tag(4, frame(4, body(), flags=0x08)),
    "no picture": tag(3, frame(3, b"\0title", b"TIT2")),
    "not an image": tag(3, frame(3, body(picture=b"<svg onload=alert(1)>"))),
    "tag longer than the file": b"ID3\x03\0\0" + synchsafe(1 << 27),
    "boxes without end": b"\0\0\0\x08ftyp" + b"\0\0\0\x08free" * 5000,
    "text": b"nothing of all this",
    "empty": b"",
}


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The modules of the page with the files beside them, and the picture that ffmpeg has put into some of them."""
    folder = tmp_path_factory.mktemp("covers")
    ffmpeg = [require_program("ffmpeg", "ffmpeg"), "-loglevel", "error"]
    picture = folder / "cover.jpg"
    subprocess.run(
        [*ffmpeg, "-f", "lavfi", "-i", "testsrc2=s=600x600", "-frames:v", "1", picture], check=True, timeout=60
    )
    command: list[str | Path] = [*ffmpeg, "-f", "lavfi", "-i", "sine=440:d=2", "-i", picture]
    for name, options in ENCODED.items():
        maps = ["-map", "0:a", "-map", "1:v", "-c:v", "copy", "-disposition:v", "attached_pic"]
        command += [*maps, *options, folder / name]
    subprocess.run(command, check=True, timeout=60)
    for name, data in (MADE | NONE).items():
        (folder / name).write_bytes(data)
    shutil.copy(PAGE_DIR / "covers.js", folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    return folder, picture


@pytest.fixture(scope="module")
def seen(samples: tuple[Path, Path]) -> Any:
    """What the page reads of each file."""
    folder, _ = samples
    (folder / "files.json").write_text(json.dumps([*ENCODED, *MADE, *NONE]), "utf-8")
    (folder / "program.js").write_text(PROGRAM, "utf-8")
    command = [require_program("node", "nodejs"), "program.js"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ENCODED)
def test_covers_of_ffmpeg_are_found_with_few_reads(seen: Any, samples: tuple[Path, Path], name: str) -> None:
    found = seen["found"][name]
    assert found["type"] == "image/jpeg"
    assert found["digest"] == hashlib.sha256(samples[1].read_bytes()).hexdigest()
    assert found["reads"] <= 4


@pytest.mark.parametrize("name", MADE)
def test_every_version_of_the_tag_is_read(seen: Any, name: str) -> None:
    assert seen["found"][name]["digest"] == hashlib.sha256(PNG).hexdigest()
    assert seen["found"][name]["reads"] == 1


@pytest.mark.parametrize("name", NONE)
def test_files_without_a_cover_have_none(seen: Any, name: str) -> None:
    found = seen["found"][name]
    assert found["type"] is None
    assert found["reads"] <= 12
    assert found["most"] <= 64 * 1024


def test_broken_files_are_no_errors(seen: Any) -> None:
    assert seen["broken"] == 120 * len([*ENCODED, *MADE, *NONE])
    assert seen["types"] == {
        "audio/mpeg": True,
        "audio/x-m4a": True,
        "video/mp4; a=b": True,
        "audio/flac": True,
        "audio/wav": False,
        "text/plain": False,
    }
