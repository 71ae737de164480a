"""Fixture: small media files of every container whose facts are read, made by ffmpeg and ImageMagick once per run.

One ffmpeg makes many files, because starting it takes longer than encoding one second of a small picture.
"""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.support.programs import require_program
from tests.support.shared_folders import make_once

_VIDEO_SOURCE = ["-f", "lavfi", "-i", "testsrc=size=96x64:rate=12:duration=1.5"]
_AUDIO_SOURCE = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=1.5"]
_TAGS = ["-metadata", "title=Grüße, world", "-metadata", "artist=The Testers", "-metadata", "album=Samples"]
_BOTH, _PICTURE, _SOUND = ["-map", "0:v", "-map", "1:a"], ["-map", "0:v"], ["-map", "1:a"]
_H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", "6"]
_VP8 = ["-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8"]
_VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]
_AV1 = ["-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p"]
_AAC, _OPUS, _VORBIS = ["-c:a", "aac", "-b:a", "48k"], ["-c:a", "libopus", "-b:a", "48k"], ["-c:a", "libvorbis"]
_MP3, _FLAC, _PCM = ["-c:a", "libmp3lame"], ["-c:a", "flac"], ["-c:a", "pcm_s16le"]

_ENCODED: dict[str, list[str]] = {
    # MP4 and QuickTime
    "index-last.mp4": [*_BOTH, *_H264, *_AAC, *_TAGS],
    "index-first.mp4": [*_BOTH, *_H264, *_AAC, *_TAGS, "-movflags", "+faststart"],
    "picture-only.mp4": [*_PICTURE, *_H264, "-profile:v", "baseline"],
    "high-10.mp4": [*_PICTURE, *_H264[:4], "-pix_fmt", "yuv420p10le"],
    "hevc.mp4": [*_PICTURE, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"],
    "hvc1.mp4": [
        *_BOTH,
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        "log-level=none",
        "-tag:v",
        "hvc1",
        *_AAC,
    ],
    "av1.mp4": [*_BOTH, *_AV1, *_OPUS, "-strict", "-2"],
    "vp9.mp4": [*_PICTURE, *_VP9],
    "mpeg4.mp4": [*_BOTH, "-c:v", "mpeg4", *_AAC],
    "mp3.mp4": [*_BOTH, *_H264, *_MP3],
    "flac.mp4": [*_SOUND, *_FLAC, "-strict", "-2"],
    "ac3.mp4": [*_SOUND, "-c:a", "ac3"],
    "alac.m4a": [*_SOUND, "-c:a", "alac", *_TAGS],
    "aac.m4a": [*_SOUND, *_AAC, *_TAGS, "-metadata", "track=3"],
    "fragments.mp4": [*_BOTH, *_H264, *_AAC, "-movflags", "+frag_keyframe+empty_moov+default_base_moof"],
    "fragments-moov.mp4": [*_BOTH, *_H264, *_AAC, "-movflags", "+frag_keyframe"],
    "fragments-dash.mp4": [*_PICTURE, *_H264, "-movflags", "+dash+frag_keyframe+global_sidx"],
    "fragments-trailer.mp4": [*_BOTH, *_H264, *_AAC, "-movflags", "+frag_keyframe+empty_moov+skip_trailer"],
    "fragments-audio.mp4": [*_SOUND, *_AAC, "-movflags", "+empty_moov+default_base_moof", "-frag_duration", "500000"],
    "apple.mov": [*_BOTH, *_H264, *_AAC, *_TAGS],
    "keys.mov": [*_BOTH, *_H264, *_AAC, *_TAGS, "-movflags", "use_metadata_tags"],
    "pcm.mov": [*_BOTH, "-c:v", "mjpeg", *_PCM],
    "prores.mov": [*_PICTURE, "-c:v", "prores_ks"],
    # Matroska and WebM
    "vp8.webm": [*_BOTH, *_VP8, *_VORBIS, *_TAGS],
    "vp9.webm": [*_BOTH, *_VP9, *_OPUS, *_TAGS],
    "av1.webm": [*_BOTH, *_AV1, *_OPUS],
    "audio.webm": [*_SOUND, *_OPUS],
    "live.webm": [*_BOTH, *_VP8, *_OPUS, "-live", "1"],
    "cues-first.webm": [*_BOTH, *_VP8, *_OPUS, "-cues_to_front", "1", "-reserve_index_space", "1000"],
    "h264.mkv": [*_BOTH, *_H264, *_AAC, *_TAGS],
    "hevc.mkv": [*_PICTURE, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"],
    "mp3.mkv": [*_BOTH, *_H264, *_MP3],
    "flac.mka": [*_SOUND, *_FLAC, *_TAGS],
    "pcm.mkv": [*_BOTH, "-c:v", "mjpeg", *_PCM],
    # Ogg
    "vorbis.ogg": [*_SOUND, *_VORBIS, *_TAGS],
    "vorbis-44.ogg": [*_SOUND, *_VORBIS, "-ar", "44100"],
    "opus.opus": [*_SOUND, *_OPUS, *_TAGS],
    "opus.ogg": [*_SOUND, *_OPUS],
    "theora.ogv": [*_PICTURE, "-c:v", "libtheora", *_TAGS],
    "theora-vorbis.ogv": [*_BOTH, "-c:v", "libtheora", *_VORBIS],
    "flac.oga": [*_SOUND, *_FLAC, *_TAGS],
    "speex.spx": [*_SOUND, "-c:a", "libspeex", "-ar", "16000"],
    # MP3
    "cbr.mp3": [*_SOUND, *_MP3, "-b:a", "64k", *_TAGS],
    "vbr.mp3": [*_SOUND, *_MP3, "-q:a", "5", *_TAGS, "-id3v2_version", "3"],
    "id3v24.mp3": [*_SOUND, *_MP3, *_TAGS, "-id3v2_version", "4"],
    "stereo-44.mp3": [*_SOUND, *_MP3, "-ar", "44100", "-ac", "2"],
    "low-rate.mp3": [*_SOUND, *_MP3, "-ar", "16000"],
    "no-index.mp3": [*_SOUND, *_MP3, "-write_xing", "0"],
    "no-index-no-tags.mp3": [*_SOUND, *_MP3, "-write_xing", "0", "-id3v2_version", "0"],
    # FLAC and WAV
    "stereo.flac": [*_SOUND, *_FLAC, "-ac", "2", *_TAGS],
    "mono-96.flac": [*_SOUND, *_FLAC, "-ar", "96000"],
    "pcm.wav": [*_SOUND, *_PCM, *_TAGS],
    "pcm-24.wav": [*_SOUND, "-c:a", "pcm_s24le", "-ac", "2"],
    "float.wav": [*_SOUND, "-c:a", "pcm_f32le"],
    "mulaw.wav": [*_SOUND, "-c:a", "pcm_mulaw", "-ar", "8000"],
    "adpcm.wav": [*_SOUND, "-c:a", "adpcm_ms"],
    "rf64.wav": [*_SOUND, *_PCM, "-rf64", "always"],
    # Pictures
    "still.png": [*_PICTURE, "-frames:v", "1"],
    "still.jpg": [*_PICTURE, "-frames:v", "1"],
    "moving.gif": [*_PICTURE],
    "lossy.webp": [*_PICTURE, "-frames:v", "1", "-c:v", "libwebp"],
    "lossless.webp": [*_PICTURE, "-frames:v", "1", "-c:v", "libwebp", "-lossless", "1"],
    "still.avif": [*_PICTURE, "-frames:v", "1", "-c:v", "libaom-av1", "-cpu-used", "8", "-still-picture", "1"],
}
_COPIED: dict[str, tuple[str, list[str]]] = {
    f"rotated-{angle}.{suffix}": (source, ["-metadata:s:v", f"rotate={angle}"])
    for angle in (90, 180, 270)
    for source, suffix in (("index-last.mp4", "mp4"), ("apple.mov", "mov"))
}
_CONVERTED: dict[str, list[str]] = {
    "gradient.png": ["-size", "321x123", "gradient:red-blue"],
    "grey.png": ["-size", "32x16", "xc:gray50", "-colorspace", "Gray"],
    "palette.gif": ["-size", "99x33", "gradient:red-blue"],
    "animated.gif": ["-size", "20x10", "-delay", "20", "xc:red", "xc:blue", "xc:green"],
    "gradient.jpg": ["-size", "640x361", "gradient:red-blue"],
    "progressive.jpg": ["-size", "64x48", "gradient:red-blue", "-interlace", "JPEG"],
    "grey.jpg": ["-size", "33x65", "gradient:black-white", "-colorspace", "Gray"],
    "alpha.webp": ["-size", "65x33", "xc:#ff000080"],
    "gradient.webp": ["-size", "200x100", "gradient:red-blue"],
    "gradient.avif": ["-size", "128x80", "gradient:red-blue"],
}


@dataclass(frozen=True)
class ContainerSamples:
    """The folder with the files, and the program that judges them."""

    folder: Path
    ffprobe: str

    @property
    def names(self) -> list[str]:
        """All files, ordered."""
        return sorted(path.name for path in self.folder.iterdir())

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return (self.folder / name).read_bytes()


@pytest.fixture(scope="session")
def container_samples(tmp_path_factory: pytest.TempPathFactory) -> ContainerSamples:
    """Make all files: about five seconds of processor time."""
    ffmpeg, ffprobe = require_program("ffmpeg", "ffmpeg"), require_program("ffprobe", "ffmpeg")
    convert = require_program("convert-im6.q16", "imagemagick")
    folder = make_once(tmp_path_factory, "containers", lambda folder: _make_samples(ffmpeg, convert, folder))
    return ContainerSamples(folder, ffprobe)


def _make_samples(ffmpeg: str, convert: str, folder: Path) -> None:
    base = [ffmpeg, "-v", "error", "-nostdin", "-y"]
    targets = [argument for name, options in _ENCODED.items() for argument in (*options, str(folder / name))]
    encode = [*base, *_VIDEO_SOURCE, *_AUDIO_SOURCE, *targets]
    subprocess.run(encode, check=True, timeout=100, env={**os.environ, "SVT_LOG": "1"})
    for name, (source, options) in _COPIED.items():
        command = [*base, "-i", str(folder / source), "-map", "0", "-c", "copy", *options, str(folder / name)]
        subprocess.run(command, check=True, timeout=20)
    for name, arguments in _CONVERTED.items():
        subprocess.run([convert, *arguments, str(folder / name)], check=True, timeout=20)
    for name, (source, options) in _PIPED.items():
        command = [*base, "-i", str(folder / source), "-c", "copy", *options, "-"]
        output = subprocess.run(command, check=True, timeout=20, capture_output=True).stdout
        (folder / name).write_bytes(output)
    _write_derived(folder)


_PIPED = {
    "piped.wav": ("pcm.wav", ["-f", "wav"]),
    "piped.flac": ("stereo.flac", ["-f", "flac"]),
    "piped.webm": ("vp8.webm", ["-f", "webm"]),
    "piped.mkv": ("h264.mkv", ["-f", "matroska"]),
}
"""Written to a pipe, where the muxer cannot go back and fill lengths in."""


def exif_segment(orientation: int, order: Literal["big", "little"] = "big") -> bytes:
    """An APP1 segment of JPEG with one entry of Exif, as cameras write it first."""
    tiff = (b"MM\x00*" if order == "big" else b"II*\x00") + (8).to_bytes(4, order)
    entry = b"".join(value.to_bytes(size, order) for value, size in ((0x0112, 2), (3, 2), (1, 4), (orientation, 2)))
    body = b"Exif\x00\x00" + tiff + (1).to_bytes(2, order) + entry + bytes(2) + bytes(4)
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def _write_derived(folder: Path) -> None:
    """Pictures turned by a camera, and broken files."""
    jpeg = (folder / "still.jpg").read_bytes()
    for orientation in range(1, 9):
        turned = jpeg[:2] + exif_segment(orientation, "big" if orientation % 2 else "little") + jpeg[2:]
        (folder / f"orientation-{orientation}.jpg").write_bytes(turned)
    for name in ("index-last.mp4", "index-first.mp4", "fragments.mp4", "vp9.webm", "vorbis.ogg", "opus.opus", "vbr.mp3",
                 "stereo.flac", "pcm.wav", "still.png", "gradient.jpg", "moving.gif", "theora.ogv"):  # fmt: skip
        data = (folder / name).read_bytes()
        (folder / f"cut-{name}").write_bytes(data[: len(data) * 2 // 3])
        (folder / f"head-{name}").write_bytes(data[:30])
