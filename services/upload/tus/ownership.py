"""Whose a tus upload is: the subject that began it. To others it does not exist.

The subject is in the metadata that the store keeps with the upload. No header field of a client is stored under its key.
"""

from services.common.auth.identity import Identity
from services.common.store.upload_store import FinishedUpload, InProgressUpload

OWNER_KEY = "owner"
LINK_KEY = "link"


def owner_entry(identity: Identity | None) -> dict[str, str]:
    """Return what is stored with a new upload; empty for an anonymous caller and where authentication is off.

    What a signed link uploads belongs to the issuer of the link, and its id is stored as well.
    """
    if identity is None or not identity.subject:
        return {}
    return {OWNER_KEY: identity.subject} | ({} if identity.link is None else {LINK_KEY: identity.link.id})


def is_visible(state: InProgressUpload | FinishedUpload, identity: Identity | None) -> bool:
    """Return whether a caller may see and continue an upload.

    One without an owner was begun while authentication was off, or has ended without a file: it belongs to all who may write into
    its folder.
    """
    if identity is not None and identity.link is not None:  # its holder is not its issuer, and sees that one upload
        return state.metadata.get(LINK_KEY) == identity.link.id
    if identity is None or identity.rights.is_admin:
        return True
    if owner := state.metadata.get(OWNER_KEY, ""):
        return owner == identity.subject
    if state.name is None:
        return identity.rights.may_everywhere("write")
    return identity.rights.may_folder("write", state.name.folder)
