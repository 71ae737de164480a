"""Hooks for schemathesis, loaded by its command line and not by pytest.

Most generated requests are changed so that they name what exists: a stored file, an open socket, an active upload at its true
offset. Otherwise nearly all would be 404, and nothing behind the first look-up would be reached. A hash of the request decides
which ones, so that a repeated request is changed the same way. All statuses are counted in the file named by
STATUS_COUNTS_FILE.
"""

import atexit
import base64
import functools
import json
import os
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
import schemathesis
from websockets.sync.client import ClientConnection, connect

from tests.support.fragmented_mp4 import fragment, init

Case = schemathesis.Case[Any]

GATEWAY = os.environ["GATEWAY_URL"]
FOLDER = "judged"
TUS = {"Tus-Resumable": "1.0.0"}
TIMEOUT = 30.0
MUTATED_SHARE = 3
"""One of this many requests stays as it was generated."""

MEDIA = init() + b"".join(fragment(second, 1) for second in range(8))
KEPT_STREAMS = 3

_tally: Counter[tuple[str, int]] = Counter()
_streams: list[str] = []
_lock = threading.Lock()
_sockets: list[ClientConnection] = []


@schemathesis.hook
def after_call(_context: schemathesis.HookContext, case: Case, response: schemathesis.Response) -> None:
    with _lock:
        _tally[case.operation.label, response.status_code] += 1
    if case.operation.label == "POST /live" and response.status_code == 201:
        _keep_stream(response.json()["id"])


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: Case, _kwargs: dict[str, Any]) -> None:
    """Change the request so that it names something that exists."""
    said = repr((case.operation.label, case.path_parameters, case.query, case.headers, case.body))
    digest = zlib.crc32(said.encode("utf-8", "replace"))
    if digest % MUTATED_SHARE and (change := _PREPARERS.get(case.operation.label)) is not None:
        change(case, f"{digest:08x}")


def _query(case: Case, **values: Any) -> None:
    case.query = {**(case.query or {}), **values}


def _headers(case: Case, **values: str | None) -> None:
    for name, value in values.items():
        if value is None:
            case.headers.pop(name.replace("_", "-"), None)
        else:
            case.headers[name.replace("_", "-")] = value


def _list(case: Case, _digest: str) -> None:
    _query(case, limit=7)
    case.query.pop("after", None)
    if "folder" in case.query:
        _query(case, folder=FOLDER)


def _read(case: Case, digest: str) -> None:
    """The generated conditions and ranges stay in every second of these requests."""
    _ensure_stored("read.webm")
    _query(case, filename="read.webm", folder=FOLDER)
    if int(digest, 16) & 4:
        _headers(case, If_Match=None, If_None_Match=None, If_Unmodified_Since=None)


def _write(case: Case, digest: str) -> None:
    _query(case, filename=f"{digest}.bin", folder=FOLDER)
    case.query.pop("sid", None)
    _headers(case, If_Match=None, Content_Digest=None, Repr_Digest=None, If_None_Match=None)


def _delete(case: Case, digest: str) -> None:
    _ensure_stored(f"{digest}.bin")
    _query(case, filename=f"{digest}.bin", folder=FOLDER)
    _headers(case, If_Match=None)


def _move(case: Case, digest: str) -> None:
    _delete(case, digest)
    case.body = {"filename": f"{digest}-{os.urandom(4).hex()}.bin", "folder": FOLDER}
    _headers(case, If_Unmodified_Since=None)


def _restore(case: Case, digest: str) -> None:
    _delete(case, digest)
    requests.delete(f"{GATEWAY}/file/stream", params=case.query, timeout=TIMEOUT)


def _poster(case: Case, digest: str) -> None:
    _delete(case, digest)
    _headers(case, If_Unmodified_Since=None, If_None_Match=None)
    if case.method == "PUT":
        case.body = _GIF
    elif case.method == "GET":
        requests.put(f"{GATEWAY}/file/poster", params=case.query, data=_GIF, timeout=TIMEOUT)


def _read_by_path(case: Case, digest: str) -> None:
    _read(case, digest)
    _path(case, "read.webm")


def _write_by_path(case: Case, digest: str) -> None:
    _write(case, digest)
    _path(case, f"{digest}.bin")


def _delete_by_path(case: Case, digest: str) -> None:
    _delete(case, digest)
    _path(case, f"{digest}.bin")


def _path(case: Case, filename: str) -> None:
    """Name a file in the topmost folder: schemathesis encodes slashes in a path parameter."""
    if case.method != "PUT":
        _ensure_stored(filename, folder="")
    case.path_parameters = {**(case.path_parameters or {}), "path": filename}
    for name in ("filename", "folder"):
        case.query.pop(name, None)


def _form(case: Case, digest: str) -> None:
    """A form part without a filename is no file, and none is ever generated."""
    case.query = {}
    boundary = f"boundary{digest}"
    content = repr(case.body).encode("utf-8", "replace")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{os.urandom(8).hex()}.bin"\r\n\r\n'
    case.body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    _headers(case, Content_Type=f"multipart/form-data; boundary={boundary}")


def _create(case: Case, _digest: str) -> None:
    name = base64.b64encode(os.urandom(8).hex().encode()).decode()
    _headers(case, upload_length=None, upload_defer_length="1", upload_metadata=f"filename {name}", **_NO_CHECKSUM)
    _headers(case, Tus_Resumable="1.0.0", upload_concat=None)


def _tus(case: Case, _digest: str) -> None:
    case.path_parameters = {**(case.path_parameters or {}), "upload": _unfinished_upload()}
    _headers(case, Tus_Resumable="1.0.0")


def _patch(case: Case, digest: str) -> None:
    _tus(case, digest)
    _headers(case, upload_offset="0", upload_length=None, **_NO_CHECKSUM)


def _socket(case: Case, _digest: str) -> None:
    case.path_parameters = {**(case.path_parameters or {}), "sid": _connected_sid()}


def _push(case: Case, digest: str) -> None:
    if "sid" in (case.path_parameters or {}):
        _socket(case, digest)
    case.query = {}
    if isinstance(case.body, dict):
        case.body = {"type": "judged.said", "data": case.body.get("data")}


def _make_live(case: Case, _digest: str) -> None:
    if isinstance(case.body, dict):
        case.body = {**case.body, "filename": f"{os.urandom(8).hex()}.mp4", "folder": FOLDER, "title": "judged"}


def _watch(case: Case, _digest: str) -> None:
    case.path_parameters = {**(case.path_parameters or {}), "id": _recorded_stream()}
    for name in ("epoch", "number"):
        if name in case.path_parameters:
            case.path_parameters[name] = 0
    case.query = {}


def _control(case: Case, _digest: str) -> None:
    case.path_parameters = {**(case.path_parameters or {}), "id": _new_stream()["id"]}


def _send(case: Case, digest: str) -> None:
    """What a publisher sends: the credential is that of the stream."""
    made = _new_stream()
    case.path_parameters = {**(case.path_parameters or {}), "id": made["id"]}
    if "token" in case.path_parameters:
        case.path_parameters["token"] = made["publish_token"]
    else:
        _headers(case, Authorization=f"Bearer {made['publish_token']}")
    if "name" in case.path_parameters:
        case.path_parameters["name"] = f"{digest}.m4s"
    case.query = {}
    if case.operation.path.endswith("/tus"):
        _headers(case, Tus_Resumable="1.0.0", upload_length=None, upload_offset="0", upload_defer_length="1")
    if case.method in {"PATCH", "PUT"} or (case.method == "POST" and not case.operation.path.endswith("/tus")):
        case.body = MEDIA


_GIF = b"GIF89a\x03\0\x02\0" + bytes(3)
_NO_CHECKSUM: dict[str, str | None] = {"upload_checksum": None}
_PREPARERS: dict[str, Callable[[Case, str], None]] = {
    "GET /file": _list,
    "PATCH /file": _move,
    "POST /file/restore": _restore,
    "GET /file/poster": _poster,
    "PUT /file/poster": _poster,
    "DELETE /file/poster": _poster,
    "GET /file/folders": _list,
    "GET /file/info": _read,
    "GET /file/stream": _read,
    "HEAD /file/stream": _read,
    "PUT /file/stream": _write,
    "DELETE /file/stream": _delete,
    "GET /files/{path}": _read_by_path,
    "HEAD /files/{path}": _read_by_path,
    "PUT /files/{path}": _write_by_path,
    "DELETE /files/{path}": _delete_by_path,
    "POST /file/upload": _form,
    "POST /file/tus": _create,
    "HEAD /file/tus/{upload}": _tus,
    "PATCH /file/tus/{upload}": _patch,
    "DELETE /file/tus/{upload}": _tus,
    "GET /sockets": _list,
    "GET /sockets/{sid}": _socket,
    "DELETE /sockets/{sid}": _socket,
    "POST /sockets/messages": _push,
    "POST /sockets/{sid}/messages": _push,
    "POST /live": _make_live,
    "GET /live/{id}": _control,
    "POST /live/{id}/end": _control,
    "DELETE /live/{id}": _control,
    **{
        f"{method} /live/{{id}}/{rest}": _watch
        for method in ("GET", "HEAD")
        for rest in ("index.m3u8", "media.m3u8", "{epoch}/init.mp4", "{epoch}/{number}.m4s")
    },
    **{f"{method} /live/{{id}}/tus": _send for method in ("POST", "HEAD", "PATCH")},
    **{
        f"{method} /live/{{id}}/{key}media{name}": _send
        for key in ("", "key/{token}/")
        for method, name in (
            ("POST", ""),
            ("PUT", ""),
            ("PUT", "/{name}"),
            ("POST", "/{name}"),
            ("DELETE", "/{name}"),
        )
    },
}


def _ensure_stored(name: str, folder: str = FOLDER) -> None:
    query = {"filename": name, "folder": folder}
    answer = requests.put(f"{GATEWAY}/file/stream", params=query, data=b"0123456789" * 100, timeout=TIMEOUT)
    answer.raise_for_status()


def _unfinished_upload() -> str:
    name = base64.b64encode(os.urandom(8).hex().encode()).decode()
    fields = {**TUS, "Upload-Defer-Length": "1", "Upload-Metadata": f"filename {name}"}
    answer = requests.post(f"{GATEWAY}/file/tus", headers=fields, timeout=TIMEOUT)
    answer.raise_for_status()
    return answer.headers["location"].rpartition("/")[2]


def _new_stream() -> dict[str, str]:
    """A live stream that was just made; the last few are kept, because their number is limited."""
    wanted = {"folder": FOLDER, "filename": f"{os.urandom(8).hex()}.mp4"}
    answer = requests.post(f"{GATEWAY}/live", json=wanted, timeout=TIMEOUT)
    answer.raise_for_status()
    made: dict[str, str] = answer.json()
    _keep_stream(made["id"])
    return made


def _keep_stream(stream_id: str) -> None:
    with _lock:
        _streams.append(stream_id)
        oldest = _streams.pop(0) if len(_streams) > KEPT_STREAMS else None
    if oldest is not None:
        requests.delete(f"{GATEWAY}/live/{oldest}", timeout=TIMEOUT)


@functools.cache
def _recorded_stream() -> str:
    """A stream that has ended."""
    wanted = {"folder": FOLDER, "filename": f"{os.urandom(8).hex()}.mp4"}
    made = requests.post(f"{GATEWAY}/live", json=wanted, timeout=TIMEOUT).json()
    fields = {**TUS, "authorization": f"Bearer {made['publish_token']}", "upload-offset": "0"}
    fields |= {"content-type": "application/offset+octet-stream", "upload-length": str(len(MEDIA))}
    requests.patch(f"{GATEWAY}{made['tus']}", data=MEDIA, headers=fields, timeout=TIMEOUT).raise_for_status()
    return str(made["id"])


def _connected_sid() -> str:
    """A socket that was just opened; the last few stay open, an older one may still resume."""
    connection = connect(
        GATEWAY.replace("http", "ws", 1) + "/ws", open_timeout=TIMEOUT, close_timeout=1, ping_interval=None
    )
    sid: str = json.loads(connection.recv(TIMEOUT))["sid"]
    with _lock:
        _sockets.append(connection)
        oldest = _sockets.pop(0) if len(_sockets) > 5 else None
    if oldest is not None:
        oldest.close()
    return sid


@atexit.register
def _write_tally() -> None:
    for connection in _sockets:
        connection.close()
    for stream_id in _streams:
        requests.delete(f"{GATEWAY}/live/{stream_id}", timeout=TIMEOUT)
    counts: dict[str, dict[int, int]] = {}
    for (label, status), count in _tally.items():
        counts.setdefault(label, {})[status] = count
    Path(os.environ["STATUS_COUNTS_FILE"]).write_text(json.dumps(counts), "utf-8")
