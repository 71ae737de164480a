"""Whose a tus upload is: the subject that began it. To others it does not exist."""

from services.common.auth.identity import Identity
from services.common.store.upload_store import FinishedUpload, InProgressUpload

_EARLIER_KEY = "owner"
"""Key of the subject in the metadata of uploads that were begun before the store knew their owners."""


def is_visible(state: InProgressUpload | FinishedUpload, identity: Identity | None) -> bool:
    """Return whether a caller may see and continue an upload.

    One without an owner was begun while authentication was off, or anonymously: it belongs to all who may write into its folder.
    """
    if identity is None or identity.rights.is_admin:
        return True
    if owner := state.owner or state.metadata.get(_EARLIER_KEY, ""):
        return owner == identity.subject
    if state.name is None:
        return identity.rights.may_everywhere("write")
    return identity.rights.may_folder("write", state.name.folder)
