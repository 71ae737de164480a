"""Uploads by a signed link: one file, under its name, once, within the size and the media types that the link says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.common.auth.signed_links import MAX_LINK_LIFE_SECONDS, Link
from services.common.errors import BadRequest, Conflict, ContentTooLarge, InvalidLink
from services.common.media import validate_media_name
from services.common.store.revocation_store import LinkUses
from services.common.uploads.cleanup import CleanupRunner
from services.common.uploads.policy import UploadPolicy


def apply_link(link: Link | None, metadata: dict[str, str], *, is_concat: bool) -> dict[str, str]:
    """Return Upload-Metadata with the name that the link says where it has none.

    Raises InvalidLink for another name, BadRequest for a part of a concatenation, which would be a second upload.
    """
    if link is None:
        return metadata
    if is_concat:
        raise BadRequest("a link is for one upload: without Upload-Concat")
    named = {"folder": link.name.folder, "filename": link.name.filename, **metadata}
    if validate_media_name(named["folder"], named["filename"]) != link.name:
        raise InvalidLink("it is for another file")
    return named


def check_limits(link: Link | None, content_type: str | None, length: int | None) -> None:
    """Raise where a file is not what the link allows: UnsupportedMediaType, ContentTooLarge; BadRequest where its size is not said.

    What the server allows holds as well.
    """
    if link is None:
        return
    if content_type is not None:
        UploadPolicy(0, link.media_types).check_media_type(content_type)
    if link.max_size is None:
        return
    if length is None:
        raise BadRequest("the link limits the size: Upload-Length is needed")
    if length > link.max_size:
        raise ContentTooLarge(f"the file is larger than {link.max_size} bytes, which the link allows")


@asynccontextmanager
async def use_once(link: Link | None, uses: LinkUses, cleanup: CleanupRunner) -> AsyncIterator[None]:
    """Claim the link for the upload that is created within; give it back where none was. Raises Conflict for a second use."""
    if link is None:
        yield
        return
    if not await uses.claim_link(link.id, link.expires_at + MAX_LINK_LIFE_SECONDS):
        raise Conflict("the link was used already")
    try:
        yield
    except BaseException as error:
        await cleanup.run_after(error, uses.release_link(link.id))
        raise
