"""services.common.auth.rights: folders, topics, words that grant nothing."""

import unicodedata
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.auth.rights import (
    MAX_WORDS,
    VERBS,
    Rights,
    fill_in_subject,
    has_known_verb,
    parse_scope,
    scope_word,
    user_topic,
)
from services.common.errors import BadRequest
from services.common.invisible import find_invisible
from services.common.media import FolderFilter, validate_folder


@pytest.mark.parametrize(
    ("scope", "folder", "allowed"),
    [
        ("write:team-a", "team-a", True),
        ("write:team-a", "team-ab", False),
        ("write:team-a", "team-a/x", False),
        ("write:team-a", "", False),
        ("write:team-a/*", "team-a", True),
        ("write:team-a/*", "team-a/x", True),
        ("write:team-a/*", "team-a/x/y", True),
        ("write:team-a/*", "team-ab", False),
        ("write:team-a/*", "team-ab/x", False),
        ("write:team%2Fa", "team/a", True),
        ("write:our%20films", "our films", True),
        ("write:%C3%A9t%C3%A9", "\u00e9t\u00e9", True),
        ("write:e%CC%81t%C3%A9", "\u00e9t\u00e9", True),
        ("write:", "", True),
        ("write:", "a", False),
        ("write", "any/thing", True),
        ("write", "", True),
        ("admin", "any", True),
        ("read", "any", False),
        ("write:*", "a", False),
        ("write:*", "", False),
        ("write:/*", "a", False),
        ("write:**", "a", False),
        ("write:a/**", "a", False),
        ("write:a*", "ab", False),
        ("write:%2A", "*", True),
        ("write:a/%2A", "a/b", False),
        ("write:..", "..", False),
        ("write:a/../b", "b", False),
        ("write:a//b", "a/b", False),
        ("write:a/", "a", False),
        ("write:%ff", "\ufffd", False),
        ("write:%0a", "\n", False),
        ("write:%zz", "%zz", False),
        (":a", "a", False),
        ("WRITE:a", "a", False),
        ("write:a:b", "a:b", True),
        ("write:\u00e9", "\u00e9", False),
    ],
)
def test_folders(scope: str, folder: str, *, allowed: bool) -> None:
    rights = parse_scope(scope)
    assert rights.may_folder("write", folder) is allowed
    readable = rights.folders("write")
    assert (readable is None or readable.allows(folder)) is allowed


@pytest.mark.parametrize(
    ("scope", "topic", "allowed"),
    [
        ("listen:room/1", "room/1", True),
        ("listen:room/1", "room/12", False),
        ("listen:room/*", "room/12", True),
        ("listen:room/*", "room", False),
        ("listen:*", "any", True),
        ("listen", "any", True),
        ("push", "any", False),
        ("listen", "@user/bob", False),
        ("listen:*", "@user/bob", False),
        ("listen:@user/bob", "@user/bob", True),
        ("listen:@user/*", "@user/bob", True),
        ("admin", "@user/bob", True),
        ("listen:", "", False),
        ("listen:a b", "a b", False),
    ],
)
def test_topics(scope: str, topic: str, *, allowed: bool) -> None:
    assert parse_scope(scope).may_topic("listen", topic) is allowed


def test_push_reaches_persons() -> None:
    assert parse_scope("push").may_topic("push", "@user/bob")
    assert not parse_scope("push:*").may_topic("push", "@user/bob")


def test_everywhere_and_somewhere() -> None:
    rights = parse_scope("read:a listen:t sockets openid write:..")
    assert [verb for verb in sorted(VERBS) if rights.may_somewhere(verb)] == ["listen", "read", "sockets"]
    assert [verb for verb in sorted(VERBS) if rights.may_everywhere(verb)] == ["sockets"]
    assert rights.folders("write") == FolderFilter()
    assert parse_scope("admin").may_everywhere("publish")
    assert not parse_scope("sockets:x admin:x").may_somewhere("sockets")


def test_the_number_of_words_is_bounded() -> None:
    parse_scope(" ".join(f"read:f{number}" for number in range(MAX_WORDS)))
    with pytest.raises(ValueError, match="more than 64"):
        parse_scope(" ".join(f"read:f{number}" for number in range(1000)))


def test_equal_scopes_are_one_object() -> None:
    """Decisions on events are made once for each set of rights, found by identity."""
    assert parse_scope("read:x listen") is parse_scope("read:x listen")
    assert Rights(["read"]) is not Rights(["read"])


@pytest.mark.parametrize(
    ("subject", "folder", "allowed"),
    [
        ("alice", "u/alice", True),
        ("alice", "u/alice/x", True),
        ("auth0|7", "u/auth0|7", True),
        ("a b", "u/a b", True),
        ("..", "u/..", False),
        ("a/b", "u/a/b", False),
        ("*", "u/x", False),
        ("*", "u/*", True),
        ("e\u0301", "u/\u00e9", False),
        ("a read", "u/a read", True),
    ],
)
def test_the_folder_of_a_subject(subject: str, folder: str, *, allowed: bool) -> None:
    rights = parse_scope(fill_in_subject("read:u/{sub}/* listen", subject))
    assert rights.may_folder("read", folder) is allowed
    assert rights.may_everywhere("listen")
    assert not rights.may_everywhere("read")


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_no_subject_reaches_the_folder_of_another(one: str, other: str) -> None:
    try:
        folder = validate_folder(f"u/{other}")
    except BadRequest:
        return
    if one != other and "/" not in other and unicodedata.normalize("NFC", other) == other == folder.removeprefix("u/"):
        assert not parse_scope(fill_in_subject("read:u/{sub}/*", one)).may_folder("read", folder)


@given(st.text(max_size=80))
def test_any_scope_is_answered(text: str) -> None:
    rights = parse_scope(text)
    for verb in VERBS:
        granted = rights.may_folder(verb, "a") or rights.may_topic(verb, "a")
        assert not granted or rights.may_somewhere(verb)


# Some letters are invisible, U+115F for one, and refused in names.
SEGMENT = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6).filter(
    lambda text: find_invisible(unicodedata.normalize("NFC", text)) is None
)


@given(st.lists(SEGMENT, min_size=1, max_size=3), st.lists(SEGMENT, min_size=1, max_size=4))
def test_a_tree_holds_itself_and_what_is_below(tree: list[str], folder: list[str]) -> None:
    """By segments, not by characters: the second definition that the first one is compared with."""
    normal_tree, normal = (validate_folder("/".join(parts)).split("/") for parts in (tree, folder))
    rights = parse_scope(f"read:{quote('/'.join(tree))}/*")
    assert rights.may_folder("read", "/".join(normal)) is (normal[: len(normal_tree)] == normal_tree)


def test_words_for_challenges_grant_what_they_name() -> None:
    for folder in ("a b", "\u00e9/x", "", 'a"b', "100%"):
        word = scope_word("read", folder)
        assert word.isascii()
        assert '"' not in word
        assert parse_scope(word).may_folder("read", folder)
    assert scope_word("read") == "read"


def test_topics_of_subjects() -> None:
    assert user_topic("alice") == "@user/alice"
    assert user_topic("auth0|7") == "@user/auth0%7C7"
    assert user_topic("a/b") == "@user/a%2Fb"
    assert user_topic("") is None
    assert user_topic("x" * 250) is None


def test_words_of_other_apis_are_none_of_ours() -> None:
    assert not has_known_verb("openid profile email readonly")
    assert has_known_verb("openid read:x")
    assert has_known_verb("read:../x")
