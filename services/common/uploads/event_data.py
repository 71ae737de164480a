"""What an event of a file says of it, to sockets and to webhooks alike. Pure."""

from typing import Any

from services.common.store.upload_store import OutboxEvent


def describe_event(event: OutboxEvent) -> dict[str, Any]:
    """The data of an event. A folder that not all who receive it may read is not named: the receivers are those of the new one."""
    data = event.info.to_public_dict()
    if event.type == "file.replaced":
        data["previous_owner"] = event.previous_owner or None
    if event.type == "file.moved":
        previous = event.previous
        is_visible = previous is not None and previous.name.folder == event.info.folder
        data["previous"] = (
            {"folder": previous.name.folder, "filename": previous.name.filename, "revision": previous.revision}
            if previous is not None and is_visible
            else None
        )
    return data
