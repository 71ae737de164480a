"""Rights: what the words of a scope (RFC 6749, 3.3) let a caller do. Pure.

A word is `verb` or `verb:pattern`. A verb alone is that right everywhere. A folder pattern is one folder, or `x/*` for x and all
below it; a topic pattern is one topic, or ends with `*` for all that begin alike. Patterns are percent-encoded, because folders may
contain spaces. A word that breaks a rule grants nothing.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, get_args
from urllib.parse import quote, unquote_to_bytes

from services.common.errors import BadRequest
from services.common.media import FolderFilter, normalize_text, validate_folder

Verb = Literal["read", "write", "delete", "listen", "push", "sockets", "link", "publish", "admin"]
VERBS: frozenset[Verb] = frozenset(get_args(Verb))
FOLDER_VERBS: frozenset[Verb] = frozenset({"read", "write", "delete", "link", "publish"})
TOPIC_VERBS: frozenset[Verb] = frozenset({"listen", "push"})
MAX_WORDS = 64
"""Words of one scope. A token with more is refused, because each costs time at each list."""
RESERVED_TOPIC_PREFIX = "@"
"""Topics that begin with it are the services' own: `@user/SUBJECT` reaches all sockets of one subject."""
MAX_USER_TOPIC_LENGTH = 200
SUBJECT_PLACEHOLDER = "{sub}"

_ENCODED_PATTERN = re.compile(r"(?:[!$&'()+,\-./0-9:;=?@A-Z\[\]^_`a-z{|}~#<>]|%[0-9A-Fa-f]{2})*\Z")
_GRANTED_TOPIC = re.compile(r"[A-Za-z0-9._~:/@%+=-]{0,200}\Z")


class Rights:
    """The rights of one scope. Compared by identity: `parse_scope` returns the same object for the same text."""

    __slots__ = ("_everywhere", "_folders", "_topics")

    def __init__(self, words: Iterable[str]) -> None:
        self._everywhere: set[str] = set()
        exact: dict[str, set[str]] = {}
        trees: dict[str, set[str]] = {}
        topics: dict[str, set[str]] = {}
        for word in words:
            verb, colon, pattern = word.partition(":")
            if verb not in VERBS:
                continue
            if not colon:
                self._everywhere.add(verb)
            elif verb in FOLDER_VERBS:
                is_tree, folder = pattern.endswith("/*"), _parse_folder_pattern(pattern.removesuffix("/*"))
                if folder is not None and (folder or not is_tree):
                    (trees if is_tree else exact).setdefault(verb, set()).add(folder)
            elif verb in TOPIC_VERBS and pattern and _GRANTED_TOPIC.match(pattern.removesuffix("*")):
                topics.setdefault(verb, set()).add(pattern)
        self._folders = {
            verb: FolderFilter(frozenset(exact.get(verb, ())), frozenset(trees.get(verb, ())))
            for verb in (*exact, *trees)
        }
        self._topics = {verb: frozenset(patterns) for verb, patterns in topics.items()}

    @property
    def is_admin(self) -> bool:
        """Whether `admin` is among them, which includes all other rights."""
        return "admin" in self._everywhere

    def may_everywhere(self, verb: Verb) -> bool:
        """Return whether the right is not limited to folders or topics."""
        return verb in self._everywhere or "admin" in self._everywhere

    def may_somewhere(self, verb: Verb) -> bool:
        """Return whether there is a folder or a topic for which the right is granted."""
        return self.may_everywhere(verb) or verb in self._folders or verb in self._topics

    def may_folder(self, verb: Verb, folder: str) -> bool:
        """Return whether the right is granted for a folder, which is normalised."""
        if self.may_everywhere(verb):
            return True
        allowed = self._folders.get(verb)
        return allowed is not None and allowed.allows(folder)

    def folders(self, verb: Verb) -> FolderFilter | None:
        """Return the folders for which the right is granted, None where it is not limited."""
        return None if self.may_everywhere(verb) else self._folders.get(verb, FolderFilter())

    def may_topic(self, verb: Verb, topic: str) -> bool:
        """Return whether the right is granted for a topic.

        A reserved topic is listened to only by an administrator, or where a pattern names it with its `@`.
        """
        reserved = topic.startswith(RESERVED_TOPIC_PREFIX)
        if self.is_admin or (verb in self._everywhere and not (reserved and verb == "listen")):
            return True
        return any(
            (topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern)
            and (not reserved or pattern.startswith(RESERVED_TOPIC_PREFIX))
            for pattern in self._topics.get(verb, ())
        )


NO_RIGHTS = Rights(())


def _parse_folder_pattern(encoded: str) -> str | None:
    """Return the folder that a pattern names, percent-decoded and normalised; None for what is no folder."""
    if not _ENCODED_PATTERN.match(encoded):
        return None
    try:
        return validate_folder(unquote_to_bytes(encoded).decode())
    except (BadRequest, UnicodeDecodeError):
        return None


@lru_cache(maxsize=4096)
def parse_scope(text: str) -> Rights:
    """Return the rights of the words of `text`, which are separated by spaces. Raises ValueError for more than MAX_WORDS."""
    words = text.split()
    if len(words) > MAX_WORDS:
        raise ValueError(f"the scope has more than {MAX_WORDS} words")
    return Rights(words)


def has_known_verb(text: str) -> bool:
    """Return whether a word of a scope is for this API: identity providers add their own (`openid profile`)."""
    return any(word.partition(":")[0] in VERBS for word in text.split())


def fill_in_subject(scope: str, subject: str) -> str:
    """Return a scope with `{sub}` replaced by a subject, percent-encoded.

    Words with `{sub}` are left out where the subject could be taken for that of another person: one with a slash is a folder below
    that of another subject, and one that is not normalised is the same folder.
    """
    words = scope.split()
    if "/" in subject or normalize_text(subject) != subject:
        return " ".join(word for word in words if SUBJECT_PLACEHOLDER not in word)
    return " ".join(word.replace(SUBJECT_PLACEHOLDER, quote(subject, safe="")) for word in words)


def user_topic(subject: str) -> str | None:
    """Return the topic that reaches all sockets of a subject; None where it would be longer than a topic may be."""
    topic = f"{RESERVED_TOPIC_PREFIX}user/{quote(subject, safe='')}"
    return topic if subject and len(topic) <= MAX_USER_TOPIC_LENGTH else None


def scope_word(verb: Verb, pattern: str | None = None) -> str:
    """Return the word that grants a right, for the `scope` of a challenge (RFC 6750, 3)."""
    return verb if pattern is None else f"{verb}:{quote(pattern, safe='/@')}"
