"""Keeps what the upload hook has answered of a stream, beside its limits, so that any process ends the stream alike. Pure."""

import json

from services.common.media import NO_METADATA
from services.common.webhooks.hook_protocol import HookAnswer, StoredHookAnswer
from services.live.stream_limits import StreamLimits


def encode_limits(limits: StreamLimits, answer: HookAnswer) -> str:
    """Return what is stored with a stream: its limits, the hook's among them, and what the hook has said of its file."""
    limited = limits.at_most(answer.max_bytes)
    return json.dumps({**json.loads(limited.to_json()), **answer.to_upload_metadata()})


def metadata_of_file(limits_json: str) -> str:
    """Return the metadata of the file that a stream becomes, as stored."""
    return StoredHookAnswer.of(json.loads(limits_json)).join_metadata(NO_METADATA)
