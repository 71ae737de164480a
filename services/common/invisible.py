"""Characters that are not seen in a name: which are dropped, which are refused, and where joiners are letters' own. Pure.

A name without invisible characters cannot look like another one. Unicode calls them Default_Ignorable_Code_Point. Where a standard
gives one of them a visible effect it is a part of the name: U+200C and U+200D between letters of Arabic and Indic scripts (UAX 31,
2.3; RFC 5892, A.1 and A.2), U+200D between emoji, tags behind the black flag, and variation selectors (UTS 51).
"""

import re
from collections.abc import Iterable

import idna

from services.common.unicode_properties import DEFAULT_IGNORABLE, EXTENDED_PICTOGRAPHIC

DIRECTION_MARKS = "\u200e\u200f\u061c"
"""Marks that only hint at a direction. Windows puts them before names that are copied from a dialogue."""

_VIRAMA_COMBINING_CLASS = 9


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    """The inside of a character class of a regular expression."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


# Control characters, lone surrogates (no UTF-8 has them), line and paragraph separators, interlinear annotation.
_FORBIDDEN = r"\x00-\x1f\x7f-\x9f\u2028\u2029\ufff9-\ufffb\ud800-\udfff" + _ranges(DEFAULT_IGNORABLE)
_PICTOGRAPH = f"[{_ranges(EXTENDED_PICTOGRAPHIC)}]"
_EMOJI = rf"{_PICTOGRAPH}\ufe0f?[\U0001f3fb-\U0001f3ff]?"
# The subdivisions whose flags are recommended for interchange: tags that no font knows would be invisible.
_SUBDIVISIONS = "|".join(
    "".join(chr(0xE0000 + ord(letter)) for letter in subdivision) for subdivision in ("gbeng", "gbsct", "gbwls")
)
_VISIBLE_SEQUENCES = "|".join(
    (
        rf"\U0001f3f4(?:{_SUBDIVISIONS})\U000e007f",
        rf"{_PICTOGRAPH}\ufe0e",
        rf"{_EMOJI}(?:\u200d{_EMOJI})*",
        r"[#*0-9]\ufe0f\u20e3",
        r"[\u09b0\u0cb0]\u200d[\u09cd\u0ccd]",  # RA of Bengali and Kannada (The Unicode Standard, 12.2 and 12.8)
        r"[\u1820-\u18aa][\u180b-\u180d\u180f]",  # Mongolian letters and their variants
        # Unified ideographs and the variants of the Ideographic Variation Database, which Japanese place names need.
        r"[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff][\U000e0100-\U000e01ef]",
    )
)
_NEXT_SEQUENCE = re.compile(rf"{_VISIBLE_SEQUENCES}|([{_FORBIDDEN}])")
_DROP_MARKS = str.maketrans("", "", DIRECTION_MARKS)


def drop_direction_marks(text: str) -> str:
    """Return the text without U+200E, U+200F and U+061C."""
    return text.translate(_DROP_MARKS)


def find_invisible(text: str) -> str | None:
    """Return the first character of the text that is invisible where it is, a control character or a lone surrogate."""
    for match in _NEXT_SEQUENCE.finditer(text):
        if match[1] and not _joins_letters(text, match.start()):
            return match[1]
    return None


def _joins_letters(text: str, index: int) -> bool:
    """Whether the character is a joiner or non-joiner that changes how the letters beside it look."""
    if text[index] not in "\u200c\u200d":
        return False
    try:
        return idna.valid_contextj(text, index)
    except ValueError:  # a character beside it is not assigned
        return False
