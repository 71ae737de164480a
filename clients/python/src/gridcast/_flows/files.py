"""Flows for descriptions, lists, removal, single ranges and versions."""

import json
from collections.abc import Sequence

from gridcast._flows.effects import Flow, HttpRequest
from gridcast._flows.remote_path import file_target, split_path, with_query
from gridcast._flows.responses import error_of, parse_file_info, parse_json, unexpected
from gridcast._flows.retries import FlowContext, send
from gridcast.errors import FileChanged
from gridcast.values import FileInfo, ServerVersion

FILES_PER_PAGE = 200
_FRESH = {"cache-control": "no-cache"}


def get_info(context: FlowContext, path: str) -> Flow[FileInfo]:
    """Describe one file, past the cache of the replica that answers."""
    folder, filename = split_path(path)
    target = with_query("/file/info", filename=filename, folder=folder)
    response = yield from send(context, HttpRequest("GET", target, _FRESH), accepted={200})
    return parse_file_info(response, parse_json(response))


def list_files(
    context: FlowContext, folder: str | None, query: str, after: str | None
) -> Flow[tuple[Sequence[FileInfo], str | None]]:
    """Return one page of files, newest first, and the `after` of the next page."""
    target = with_query("/file", folder=folder, q=query or None, after=after, limit=FILES_PER_PAGE)
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    document = parse_json(response)
    found = document.get("files")
    if not isinstance(found, list):
        raise unexpected(response, "the response lists no files")
    return [parse_file_info(response, one) for one in found], document.get("next")


def list_folders(context: FlowContext, after: str | None) -> Flow[tuple[Sequence[str], str | None]]:
    """Return one page of folders by name, and the `after` of the next page."""
    target = with_query("/file/folders", after=after, limit=FILES_PER_PAGE)
    response = yield from send(context, HttpRequest("GET", target), accepted={200})
    document = parse_json(response)
    found = document.get("folders")
    if not isinstance(found, list):
        raise unexpected(response, "the response lists no folders")
    return [str(one) for one in found], document.get("next")


def remove_file(context: FlowContext, path: str, etag: str | None) -> Flow[None]:
    """Delete a file; with `etag`, only that version of it."""
    headers = {} if etag is None else {"if-match": etag}
    yield from send(context, HttpRequest("DELETE", file_target(path), headers), accepted={204})


def move_file(context: FlowContext, path: str, new_path: str, etag: str | None) -> Flow[FileInfo]:
    """Give a file another name; with `etag`, only that version of it. Not repeated: a repetition would not find it."""
    folder, filename = split_path(path)
    new_folder, new_filename = split_path(new_path)
    headers = {"content-type": "application/json", **({} if etag is None else {"if-match": etag})}
    body = json.dumps({"folder": new_folder, "filename": new_filename}).encode()
    request = HttpRequest("PATCH", with_query("/file", filename=filename, folder=folder), headers, body)
    response = yield from send(context, request, accepted={200}, is_repeatable=False)
    return parse_file_info(response, parse_json(response))


def restore_file(context: FlowContext, path: str) -> Flow[FileInfo]:
    """Undo the last deletion of a name."""
    folder, filename = split_path(path)
    request = HttpRequest("POST", with_query("/file/restore", filename=filename, folder=folder))
    response = yield from send(context, request, accepted={200}, is_repeatable=False)
    return parse_file_info(response, parse_json(response))


def read_range(context: FlowContext, path: str, etag: str, start: int, size: int) -> Flow[bytes]:
    """Return bytes of one version of a file (RFC 9110, 14.2). Raises FileChanged where it is not there any more."""
    headers = {"range": f"bytes={start}-{start + size - 1}", "if-match": etag}
    request = HttpRequest("GET", file_target(path), headers, body_limit=size)
    response = yield from send(context, request, accepted={206, 404, 412})
    if response.status != 206:
        problem = error_of(response)
        raise FileChanged("the file was replaced or deleted", status=problem.status, request_id=problem.request_id)
    if len(response.body) != size or not response.headers.get("content-range", "").startswith(f"bytes {start}-"):
        raise unexpected(response, "the server sent another range than the one asked for")
    return response.body


def get_version(context: FlowContext) -> Flow[ServerVersion]:
    """Return what the server states of itself."""
    response = yield from send(context, HttpRequest("GET", "/version"), accepted={200})
    document = parse_json(response)
    return ServerVersion(str(document.get("service", "")), str(document.get("version", "")))
