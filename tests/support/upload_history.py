"""Uploads by concurrent clients, recorded with their outcomes, and a check of the store against them. One seed makes one history.

An operation is recorded before it is sent. `ok`: a 2xx was read to its end, or HEAD showed the whole length. `fail`: a definite
rejection. `unknown`: everything else. Afterwards every `ok` must be stored whole, no `fail` may be stored, every `unknown` must be
stored whole or not at all, and no garbage may be left.
"""

import hashlib
import random
import threading
import time
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from tests.support.sizes import CHUNK_SIZE
from tests.support.store_inspectors import MongoInspector
from tests.support.upload_client import (
    FORM_CONTENT_TYPE,
    OFFSET_CONTENT_TYPE,
    TUS_HEADERS,
    form_body,
    form_part,
    tus_metadata,
)

Outcome = Literal["ok", "fail", "unknown"]
SIZES = (0, 1, 1000, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE, 9 * CHUNK_SIZE + 17)
CLIENT_TIMEOUT = 12.0
OPERATION_KINDS = ("create", "create", "form", "tus", "tus", "tus", "parts", "given up", "replace", "delete")


@dataclass
class Operation:
    """One attempt to change the file of a name. `sha256` is empty for a delete."""

    name: str
    kind: str
    sha256: str
    size: int
    outcome: Outcome = "unknown"
    response: str = ""


@dataclass
class History:
    """All operations by name, in the order in which they were started."""

    by_name: dict[str, list[Operation]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def record_start(self, operation: Operation) -> Operation:
        with self.lock:
            self.by_name.setdefault(operation.name, []).append(operation)
        return operation

    def count(self, outcome: Outcome) -> int:
        with self.lock:
            return sum(one.outcome == outcome and bool(one.sha256) for ones in self.by_name.values() for one in ones)

    def names(self) -> list[str]:
        with self.lock:
            return list(self.by_name)


class UploadClient(threading.Thread):
    """Uploads until `stop`. Numbered names are created, by one client or by two concurrently; `own-` names are overwritten."""

    def __init__(self, number: int, seed: int, urls: list[str], history: History) -> None:
        super().__init__(daemon=True, name=f"client {number}")
        self.number = number
        self.error: BaseException | None = None
        self._random = random.Random(f"{seed} {number}")
        self._urls = urls
        self._history = history
        self._stop_requested = threading.Event()
        self._operation_count = 0

    def stop(self) -> None:
        self._stop_requested.set()

    def run(self) -> None:
        try:
            with httpx.Client(timeout=CLIENT_TIMEOUT, limits=httpx.Limits(max_keepalive_connections=2)) as client:
                while not self._stop_requested.is_set():
                    self._run_operation(client)
        except BaseException as error:  # noqa: BLE001  # reported by the test
            self.error = error

    def _run_operation(self, client: httpx.Client) -> None:
        dice = self._random
        data = dice.randbytes(dice.choice(SIZES))
        way = dice.choice(OPERATION_KINDS)
        self._operation_count += 1
        # Two clients share their names: at most one of them may succeed.
        name = f"own-{self.number}" if way in {"replace", "delete"} else f"{self.number // 2}-{self._operation_count}"
        operation = self._history.record_start(
            Operation(name, way, "" if way == "delete" else hashlib.sha256(data).hexdigest(), len(data))
        )
        url = dice.choice(self._urls)
        try:
            if way == "tus":
                outcome, told = self._upload_with_tus(client, name, data)
            elif way == "parts":
                outcome, told = self._upload_concatenated(client, name, data)
            elif way == "given up":
                outcome, told = self._abandon_upload(client, name, data)
            else:
                answer = self._request(client, url, way, name, data)
                outcome, told = outcome_of(answer.status_code), str(answer.status_code)
        except httpx.HTTPError as error:
            outcome, told = "unknown", repr(error)
            self._stop_requested.wait(0.2)
        operation.outcome, operation.response = outcome, told

    def _request(self, client: httpx.Client, url: str, way: str, name: str, data: bytes) -> httpx.Response:
        if way == "form":
            body = form_body(form_part("file", data, name), form_part("folder", b"h"))
            return client.post(f"{url}/file/upload", content=body, headers={"content-type": FORM_CONTENT_TYPE})
        target, query = f"{url}/file/stream", {"filename": name, "folder": "h"}
        if way == "delete":
            return client.delete(target, params=query)
        return client.put(target, params=query, content=data, headers={"if-none-match": "*"} if way == "create" else {})

    def _upload_with_tus(self, client: httpx.Client, name: str, data: bytes) -> tuple[Outcome, str]:
        """Create, send in pieces, and resume after each fault on any replica, for at most CLIENT_TIMEOUT."""
        dice = self._random
        head = {"upload-length": str(len(data)), "upload-metadata": tus_metadata(filename=name, folder="h")}
        created = self._create(client, head, data[: dice.choice((0, 0, 1, CHUNK_SIZE, len(data)))])
        if created.status_code != 201:
            return outcome_of(created.status_code), f"creation {created.status_code}"
        path = created.headers["location"]
        offset, deadline = int(created.headers["upload-offset"]), time.monotonic() + CLIENT_TIMEOUT
        if offset == len(data):
            return "ok", "201"
        while time.monotonic() < deadline and not self._stop_requested.is_set():
            url = dice.choice(self._urls) + path
            end = offset + dice.choice((1, CHUNK_SIZE // 2, CHUNK_SIZE, len(data)))
            try:
                answer = self._patch(client, url, offset, data[offset:end])
                if answer.status_code == 204 and int(answer.headers["upload-offset"]) == len(data):
                    return "ok", "204"
                if answer.status_code == 410:
                    return "fail", "410"
                seen = client.head(url, headers=TUS_HEADERS)
            except httpx.HTTPError:
                self._stop_requested.wait(0.2)
                continue
            if seen.status_code in {404, 410}:
                # It expired, or was lost after a response that did not arrive.
                return "unknown", f"look {seen.status_code}"
            if seen.status_code != 200:
                self._stop_requested.wait(0.2)
                continue
            offset = int(seen.headers["upload-offset"])
            if offset == len(data):
                return "ok", "look"
        return "unknown", "gave up"

    def _create(self, client: httpx.Client, head: dict[str, str], first: bytes = b"") -> httpx.Response:
        fields = {**TUS_HEADERS, **head, **(OFFSET_CONTENT_TYPE if first else {})}
        return client.post(f"{self._random.choice(self._urls)}/file/tus", headers=fields, content=first)

    def _patch(self, client: httpx.Client, url: str, offset: int, data: bytes) -> httpx.Response:
        """Send a PATCH, three of ten with a checksum: their bytes are accepted all or not at all."""
        fields = {**TUS_HEADERS, **OFFSET_CONTENT_TYPE, "upload-offset": str(offset)}
        if self._random.random() < 0.3:
            fields["upload-checksum"] = f"sha256 {b64encode(hashlib.sha256(data).digest()).decode()}"
        return client.patch(url, headers=fields, content=data)

    def _upload_concatenated(self, client: httpx.Client, name: str, data: bytes) -> tuple[Outcome, str]:
        """Upload two parts, then concatenate them. A failure of a part leaves no file."""
        places, middle = [], len(data) // 3
        for piece in (data[:middle], data[middle:]):
            part = self._create(client, {"upload-concat": "partial", "upload-length": str(len(piece))})
            if part.status_code != 201:
                return "fail", f"a part: {part.status_code}"
            places.append(part.headers["location"])
            if piece:
                sent = self._patch(client, self._random.choice(self._urls) + places[-1], 0, piece)
                if sent.status_code != 204:
                    return "fail", f"the bytes of a part: {sent.status_code}"
        final = {
            "upload-concat": f"final;{' '.join(places)}",
            "upload-metadata": tus_metadata(filename=name, folder="h"),
        }
        answer = self._create(client, final)
        return outcome_of(answer.status_code), str(answer.status_code)

    def _abandon_upload(self, client: httpx.Client, name: str, data: bytes) -> tuple[Outcome, str]:
        """Send all but the last byte, then terminate the upload."""
        head = {"upload-length": str(len(data) + 1), "upload-metadata": tus_metadata(filename=name, folder="h")}
        created = self._create(client, head, data)
        if created.status_code == 201:
            client.delete(self._random.choice(self._urls) + created.headers["location"], headers=TUS_HEADERS)
        return "fail", f"given up after {created.status_code}"


def outcome_of(status: int) -> Outcome:
    if status < 300:
        return "ok"
    return "fail" if status < 500 and status != 408 else "unknown"


class ConsistencyReader(threading.Thread):
    """Reads one visible file every 10 ms and records a violation where it is not whole."""

    def __init__(self, store: MongoInspector, seed: int) -> None:
        super().__init__(daemon=True, name="reader")
        self.reads = 0
        self.violations: list[str] = []
        self._store = store
        self._random = random.Random(seed)
        self._stop_requested = threading.Event()

    def stop(self) -> None:
        self._stop_requested.set()

    def run(self) -> None:
        while not self._stop_requested.wait(0.01):
            try:
                if (document := self._store.sample_document(self._random)) is not None:
                    self._check_document(document)
            except Exception:  # noqa: BLE001  # the database is unavailable
                continue

    def _check_document(self, document: dict[str, Any]) -> None:
        fault = describe_corruption(self._store, document["current"])
        again = self._store.find_document(document["filename"])
        named = again and again["current"] and again["current"]["file"] == document["current"]["file"]
        self.reads += 1
        if fault and named:
            self.violations.append(f"{document['filename']}: {fault}")


def describe_corruption(store: MongoInspector, current: dict[str, Any]) -> str:
    """What is wrong with a version's bytes."""
    try:
        data = store.read_file(current["file"])
    except AssertionError:
        return "a chunk is missing"
    if (len(data), hashlib.sha256(data).hexdigest()) != (current["length"], current["sha256"]):
        return f"{len(data)} of {current['length']} bytes, or another hash"
    return ""


def find_violations(history: History, store: MongoInspector) -> list[str]:
    """Everything in which store and history do not agree; empty when all is well."""
    faults: list[str] = []
    documents = {document["filename"]: document for document in store.list_documents() if document["folder"] == "h"}
    for name, operations in history.by_name.items():
        document = documents.get(name)
        current = document["current"] if document else None
        if current and (fault := describe_corruption(store, current)):
            faults.append(f"{name}: {fault}")
        there = current["sha256"] if current else ""
        faults += (
            _check_overwritten(name, operations, there)
            if name.startswith("own-")
            else _check_created(name, operations, there)
        )
    faults += [f"orphan chunks of {file}" for file in store.list_orphans()]
    if isinstance(store, MongoInspector):
        files = {document["current"]["file"] for document in store.list_documents() if document["current"]}
        described = {entry["_id"] for entry in store.db["fs.files"].find({}, {"_id": 1})}
        if described != files:
            faults.append(f"{len(described ^ files)} descriptions without a file, or files without one")
    faults += [
        f"{document['filename']}: left {key}"
        for document in store.list_documents()
        for key in ("uploads", "doomed")
        if document[key]
    ]
    return faults


def _check_created(name: str, operations: list[Operation], stored_sha256: str) -> list[str]:
    """At most one client got a success for the name, and the stored file is its."""
    ok = [one for one in operations if one.outcome == "ok"]
    faults = [f"{name}: {len(ok)} clients got a success"] if len(ok) > 1 else []
    faults += [f"{name}: lost, {one.kind} got {one.response}" for one in ok if one.sha256 != stored_sha256]
    faults += [
        f"{name}: {one.kind} was rejected with {one.response} and is stored"
        for one in operations
        if one.outcome == "fail"
        and one.sha256 == stored_sha256
        and one.size
        and not any(o.sha256 == stored_sha256 for o in ok)
    ]
    if stored_sha256 and stored_sha256 not in {one.sha256 for one in operations}:
        faults.append(f"{name}: holds bytes that no client sent")
    return faults


def _check_overwritten(name: str, operations: list[Operation], stored_sha256: str) -> list[str]:
    """One client wrote it repeatedly: its last success is stored, or a later operation with an unknown outcome."""
    possible: set[str] = {""}
    for one in operations:
        if one.outcome == "ok":
            possible = {one.sha256}
        elif one.outcome == "unknown":
            possible.add(one.sha256)
        elif one.kind == "delete":
            possible &= {""} if one.response == "404" else possible
    return (
        []
        if stored_sha256 in possible
        else [f"{name}: holds {stored_sha256[:8] or 'nothing'}, which is not what was last acknowledged"]
    )
