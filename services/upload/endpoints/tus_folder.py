"""The folder that a request for a new tus upload names, for its authorization before the body is read."""

from services.common.asgi import Scope
from services.common.errors import BadRequest
from services.common.media import validate_folder
from services.upload.tus.headers import parse_concat, parse_metadata


def folder_of_new_upload(scope: Scope) -> str | None:
    """Return `folder` of Upload-Metadata, normalised; None for a partial upload, which becomes no file. Raises BadRequest."""
    concat = parse_concat(_only_header(scope, b"upload-concat"))
    if concat is not None and not concat.part_ids:
        return None
    metadata = parse_metadata(_only_header(scope, b"upload-metadata") or "")
    return validate_folder(metadata.get("folder", ""))


def _only_header(scope: Scope, name: bytes) -> str | None:
    """Return a field, None where it is missing. Of two the endpoint would read one, and this another."""
    values = [value for field, value in scope["headers"] if field == name]
    if len(values) > 1:
        raise BadRequest(f"duplicate header field {name.decode()}")
    return values[0].decode("latin-1") if values else None
