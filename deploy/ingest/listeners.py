"""Which listeners there are, and the command line of ffmpeg for each. Pure.

Each takes one publisher at a time: ffmpeg, which ends with its publisher and is started again. It writes fragmented MP4 with
fragments of a second, so that a sender's long distance between key frames does not make segments too long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Protocol = Literal["rtmp", "srt", "mpegts", "webm"]

PORTS: Mapping[Protocol, str] = {
    "rtmp": "INGEST_RTMP_PORT",
    "srt": "INGEST_SRT_PORT",
    "mpegts": "INGEST_TS_PORT",
    "webm": "INGEST_WEBM_PORT",
}
"""The variables with the port of each protocol."""
PROTOCOLS_WITH_KEY: frozenset[Protocol] = frozenset({"rtmp", "srt"})
"""The others have no way to state a key: everyone who reaches their port may publish, so they are off by default."""
MIN_KEY_LENGTH, MAX_KEY_LENGTH = 16, 79
"""The upper limit is that of a passphrase of SRT."""
RTMP_REFUSAL = b"Unexpected stream"
"""What ffmpeg says, before it writes anything, of a publisher with another key. It goes on with that one: its caller must not."""
MAX_RETURN_SECONDS = 3600.0

_FRAGMENTS = ("-f", "mp4", "-movflags", "+frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "1000000")
_TRACKS = ("-map", "0:v:0?", "-map", "0:a:0?")
# A key frame each two seconds: a segment can begin at each.
_H264 = ("-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-pix_fmt", "yuv420p")
_KEY_FRAMES = ("-force_key_frames", "expr:gte(t,n_forced*2)")


class InvalidIngestSettings(ValueError):
    """A variable is missing or wrong; the text names it, and no value."""


@dataclass(frozen=True, slots=True)
class IngestListener:
    """One port."""

    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """What the environment says.

    `url` is the gateway, `key` what publishers must have. `host` is the address to listen on. Streams are made in `folder`. A
    publisher that comes back within `grace` seconds goes on with its stream. With `reencode_audio` any sound becomes AAC.
    """

    url: str
    key: str = field(repr=False)
    host: str = "127.0.0.1"
    folder: str = "live"
    grace: float = 20.0
    reencode_audio: bool = False
    listeners: tuple[IngestListener, ...] = ()


def read_settings(environment: Mapping[str, str], new_key: str) -> IngestSettings:
    """Return the settings; `new_key` is the key where none is set. Raises InvalidIngestSettings."""
    url = environment.get("INGEST_URL", "http://127.0.0.1:8000").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise InvalidIngestSettings("INGEST_URL is the http or https address of the gateway")
    key = environment.get("INGEST_KEY") or new_key
    if not MIN_KEY_LENGTH <= len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isalnum()):
        raise InvalidIngestSettings(f"INGEST_KEY has {MIN_KEY_LENGTH} to {MAX_KEY_LENGTH} letters and digits")
    audio = environment.get("INGEST_AUDIO") or "copy"
    if audio not in {"copy", "aac"}:
        raise InvalidIngestSettings("INGEST_AUDIO is copy or aac")
    listeners = [
        IngestListener(protocol, port)
        for protocol, variable in PORTS.items()
        if (port := _read_port(variable, environment.get(variable) or "0"))
    ]
    if not listeners:
        raise InvalidIngestSettings(f"no listener: set at least one of {', '.join(PORTS.values())}")
    return IngestSettings(
        url=url,
        key=key,
        host=environment.get("INGEST_HOST") or "127.0.0.1",
        folder=environment.get("INGEST_FOLDER", "live"),
        grace=_read_seconds("INGEST_GRACE", environment.get("INGEST_GRACE") or "20"),
        reencode_audio=audio == "aac",
        listeners=tuple(listeners),
    )


def ffmpeg_command(listener: IngestListener, settings: IngestSettings) -> list[str]:
    """Return the command that waits for one publisher and writes its media to stdout."""
    audio = _audio_options(listener.protocol, reencode=settings.reencode_audio)
    video = (*_H264, *_KEY_FRAMES) if listener.protocol == "webm" else ("-c:v", "copy")
    return [
        *("ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-loglevel", "warning", "-fflags", "+genpts"),
        *("-analyzeduration", "3000000", *_input_options(listener, settings)),
        *(*_TRACKS, *video, *audio, *_FRAGMENTS, "-flush_packets", "1", "pipe:1"),
    ]


def publisher_url(listener: IngestListener, host: str, key: str) -> str:
    """Return the address that publishers are given."""
    match listener.protocol:
        case "rtmp":
            return f"rtmp://{host}:{listener.port}/live/{key}"
        case "srt":
            return f"srt://{host}:{listener.port}?passphrase={key}"
        case _:
            return f"tcp://{host}:{listener.port}"


def _input_options(listener: IngestListener, settings: IngestSettings) -> tuple[str, ...]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{listener.port}"
    match listener.protocol:
        case "rtmp":
            return "-listen", "1", "-f", "flv", "-i", f"rtmp://{address}/live/{settings.key}"
        case "srt":
            options = f"mode=listener&passphrase={settings.key}&pbkeylen=16&enforced_encryption=1"
            return "-f", "mpegts", "-i", f"srt://{address}?{options}"
        case "mpegts":
            return "-f", "mpegts", "-i", f"tcp://{address}?listen=1"
        case _:
            return "-f", "matroska,webm", "-i", f"tcp://{address}?listen=1"


def _audio_options(protocol: Protocol, *, reencode: bool) -> tuple[str, ...]:
    if reencode or protocol == "webm":
        return "-c:a", "aac", "-b:a", "160k"
    # MPEG-TS has AAC with ADTS headers, which MP4 has not; the filter refuses other sound, so that nothing is stored wrongly.
    return ("-c:a", "copy") if protocol == "rtmp" else ("-c:a", "copy", "-bsf:a", "aac_adtstoasc")


def _read_port(variable: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise InvalidIngestSettings(f"{variable} is a port, or 0 for none")
    return int(text)


def _read_seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_RETURN_SECONDS:
        raise InvalidIngestSettings(f"{variable} is a number of seconds, {MAX_RETURN_SECONDS:g} at most")
    return seconds
