"""Whose a tus upload is: the subject that began it. To others it does not exist."""

from services.common.auth.identity import Identity
from services.common.store.upload_store import FinishedUpload, InProgressUpload

_EARLIER_KEY = "owner"
"""Key of the subject in the metadata of uploads that were begun before the store knew their owners."""
_LINK_KEY = "link"


def link_entry(identity: Identity | None) -> dict[str, str]:
    """Return what is stored with a new upload by a signed link: its id. The upload belongs to the issuer of the link."""
    return {} if identity is None or identity.link is None else {_LINK_KEY: identity.link.id}


def is_visible(state: InProgressUpload | FinishedUpload, identity: Identity | None) -> bool:
    """Return whether a caller may see and continue an upload.

    One without an owner was begun while authentication was off, or anonymously: it belongs to all who may write into its folder.
    """
    if identity is not None and identity.link is not None:  # its holder is not its issuer, and sees that one upload
        return state.metadata.get(_LINK_KEY) == identity.link.id
    if identity is None or identity.rights.is_admin:
        return True
    if owner := state.owner or state.metadata.get(_EARLIER_KEY, ""):
        return owner == identity.subject
    if state.name is None:
        return identity.rights.may_everywhere("write")
    return identity.rights.may_folder("write", state.name.folder)
