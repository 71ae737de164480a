"""services.common.invisible: which characters of a name are dropped, which are refused, and where a joiner is a letter's own."""

import json
import subprocess
import unicodedata

import pytest

from services.common.errors import BadRequest
from services.common.invisible import DIRECTION_MARKS, drop_direction_marks, find_invisible
from services.common.media import normalize_text, validate_folder, validate_segment
from services.common.unicode_properties import DEFAULT_IGNORABLE, EXTENDED_PICTOGRAPHIC
from tests.support.programs import require_program

ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
WALES = "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f"
TEXAS = "\U0001f3f4\U000e0075\U000e0073\U000e0074\U000e0078\U000e007f"

JOINED = {
    "a family": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "two skin tones": "\U0001f9d1\U0001f3fd\u200d\U0001f91d\u200d\U0001f9d1\U0001f3ff",
    "an emoji presentation in the middle": "\U0001f3cb\U0001f3fd\u200d\u2642\ufe0f",
    "the rainbow flag": "\U0001f3f3\ufe0f\u200d\U0001f308",
    "the pirate flag": "\U0001f3f4\u200d\u2620\ufe0f",
    "the flag of England": ENGLAND,
    "the flags of Wales and of a region": WALES + "\U0001f1e9\U0001f1ea",
    "a heart": "\u2764\ufe0f",
    "a heart as text": "\u2764\ufe0e",
    "a keycap": "1\ufe0f\u20e3",
    "Persian, ZWNJ before KHAH": "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    "Persian, a plural": "\u062e\u0627\u0646\u0647\u200c\u0647\u0627",
    "Persian, a mark in between": "\u0628\u064e\u200c\u0647",
    "Hindi, a half form": "\u0915\u094d\u200d\u0937",
    "Hindi, no ligature": "\u0915\u094d\u200c\u0937",
    "Sinhala": "\u0dc1\u0dca\u200d\u0dbb\u0dd3",
    "Malayalam, a chillu": "\u0d28\u0d4d\u200d",
    "Bengali, RA with YA": "\u09b0\u200d\u09cd\u09af\u09be\u09ac",
    "Mongolian, a variant": "\u182d\u180b",
    "a Japanese place name": "\u845b\U000e0100\u57ce",
}


@pytest.mark.parametrize("text", JOINED.values(), ids=JOINED)
def test_joiners_and_selectors_that_have_an_effect_belong_to_the_name(text: str) -> None:
    for name in (text, f"a{text}.mp4", f"{text} {text}"):
        assert validate_segment(name, "filename") == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    ("text", "character"),
    [
        ("a\u200db", "\u200d"),
        ("\u200d\U0001f468", "\u200d"),
        ("\U0001f468\u200d", "\u200d"),
        ("\U0001f468\u200d\u200d\U0001f469", "\u200d"),
        ("\U0001f468\u200da", "\u200d"),
        ("\U0001f468\u200c\U0001f469", "\u200c"),
        ("\u2764\ufe0e\u200d\U0001f525", "\u200d"),
        ("\u0645\u200c", "\u200c"),
        ("\u200c\u0645", "\u200c"),
        ("\u0627\u200c\u0645", "\u200c"),  # ALEF does not join what comes after it
        ("\u0645\u200c mp4", "\u200c"),
        ("\u0645\u200d\u062e", "\u200d"),
        ("\u0915\u200d\u0937", "\u200d"),
        ("\u0378\u200d", "\u200d"),  # not assigned
        (TEXAS, "\U000e0075"),
        ("\U0001f3f4\U000e007f", "\U000e007f"),
        (ENGLAND[:-1], "\U000e0067"),
        ("a" + ENGLAND[1:], "\U000e0067"),
        ("1\ufe0f", "\ufe0f"),
        ("a\ufe0f", "\ufe0f"),
        ("\u2764\ufe0f\ufe0f", "\ufe0f"),
        ("a\U000e0100", "\U000e0100"),
        ("a\u180b", "\u180b"),
        ("a\ufff9b", "\ufff9"),
        ("a\u2028b", "\u2028"),
        ("a\ud800", "\ud800"),
        ("a\x00\u200b", "\x00"),
    ],
)
def test_what_has_no_effect_is_refused(text: str, character: str) -> None:
    assert find_invisible(text) == character
    with pytest.raises(BadRequest, match=f"U\\+{ord(character):04X}"):
        validate_segment(text, "filename")


def test_every_default_ignorable_character_is_dropped_or_refused_between_letters() -> None:
    for first, last in DEFAULT_IGNORABLE:
        for point in range(first, last + 1):
            text = f"a{chr(point)}b.txt"
            if chr(point) in DIRECTION_MARKS:
                assert validate_segment(text, "filename") == "ab.txt"
            else:
                assert find_invisible(text) == chr(point), f"U+{point:04X}"


@pytest.mark.parametrize("point", [*range(0x202A, 0x202F), *range(0x2066, 0x206A)])
def test_bidirectional_embeddings_overrides_and_isolates_are_refused(point: int) -> None:
    for text in (f"a{chr(point)}gpj.exe", f"{chr(point)}\u200f", f"\u0645{chr(point)}\u062e"):
        with pytest.raises(BadRequest, match=f"U\\+{point:04X}"):
            validate_segment(text, "filename")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("\u200f\u200fclip.mp4", "clip.mp4"),
        ("\u200eC.txt\u200e", "C.txt"),
        ("\u061c\u0645.mp4", "\u0645.mp4"),
        ("e\u200e\u0301", "\u00e9"),  # NFC comes after it
        ("\u0645\u200f\u200c\u062e", "\u0645\u200c\u062e"),
        ("Recording 9.41.00\u202fAM.mov", "Recording 9.41.00\u202fAM.mov"),  # a space is seen
    ],
)
def test_direction_marks_are_dropped(text: str, name: str) -> None:
    assert validate_segment(text, "filename") == validate_folder(text) == normalize_text(text) == name


@pytest.mark.parametrize(
    "text", ["\u200e", "\u200f.", ".\u200e.", "..\u061c", "\u200e/\u200e", "a/\u200f/b", "a/.\u200e./b"]
)
def test_dropping_a_mark_makes_no_invalid_name_valid(text: str) -> None:
    for validate in (validate_folder, lambda name: validate_segment(name, "filename")):
        with pytest.raises(BadRequest):
            validate(text)


def test_marks_are_dropped_and_nothing_else() -> None:
    assert drop_direction_marks("a\u200eb\u200f\u061cc\u200b") == "abc\u200b"


def test_tables_agree_with_the_property_escapes_of_node() -> None:
    """Compared are the code points that Python's Unicode version assigns: that of Node.js may be another than the tables'."""
    script = """
    const points = (name) => [...Array(0x110000).keys()].filter((point) =>
      new RegExp(`^\\\\p{${name}}$`, "u").test(String.fromCodePoint(point)));
    console.log(JSON.stringify([points("Default_Ignorable_Code_Point"), points("Extended_Pictographic")]));
    """
    node = require_program("node", "nodejs")
    found = subprocess.run([node, "-e", script], capture_output=True, text=True, check=True, timeout=60)
    for table, points in zip((DEFAULT_IGNORABLE, EXTENDED_PICTOGRAPHIC), json.loads(found.stdout), strict=True):
        ours = {point for first, last in table for point in range(first, last + 1)}
        assert [point for point in ours.symmetric_difference(points) if unicodedata.category(chr(point)) != "Cn"] == []
