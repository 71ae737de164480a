"""Names of files and spellings of path addresses for tests: any legal name, awkward ones, and paths that are refused."""

from hypothesis import strategies as st

from services.common.errors import BadRequest
from services.common.media import MediaName, validate_media_name

AWKWARD_NAMES = (
    *("100%.mp4", "100%25.mp4", "a;b.mp4", "a b.mp4", " ", "+", "a+b", "a?b#c.mp4", "&=", "%2e%2e", "%2F", "%00", "%"),
    *(
        "...",
        ".hidden",
        "~",
        "it's.mp4",
        '"quoted".txt',
        "<b>",
        "[1].ts",
        "{}",
        "a|b^c`d",
        "http:",
        "*",
        "-",
        "@",
        "$x",
    ),
    *("日本語.mp4", "🎬.webm", "é" * 127, "٣.mp4", "\xa0", "a\u3000b", "\uff0e\uff0e", "\u2215", "\uff05"),
)
"""Legal filenames that programs are known to split, decode or normalise."""

REFUSED_PATHS = (
    ("/files/", "ends with a slash"),
    ("/files/a/", "ends with a slash"),
    ("/files//a", "empty segment"),
    ("/files/a//b", "empty segment"),
    ("/files///", "ends with a slash"),
    ("/files/./a", "dot segment"),
    ("/files/../a", "dot segment"),
    ("/files/a/..", "dot segment"),
    ("/files/a/.", "dot segment"),
    ("/files/%2e%2e/a", "dot segment"),
    ("/files/.%2E/a", "dot segment"),
    ("/files/%2e", "dot segment"),
    ("/files/a%2Fb", "%2F, an encoded slash"),
    ("/files/a%2fb", "%2F, an encoded slash"),
    ("/files/..%2fa", "encoded slash"),
    ("/files/a%5Cb", "may not contain / or"),
    ('/files/a"b', "must be percent-encoded"),
    ("/files/a<b>", "must be percent-encoded"),
    ("/files/a\\b", "must be percent-encoded"),
    ("/files/a;b", "contains ;, which must be percent-encoded"),
    ("/files/a;jsessionid=1", "contains ;, which must be percent-encoded"),
    ("/files/..;/a", "contains ;, which must be percent-encoded"),
    ("/files/100%.mp4", "% without two hexadecimal digits"),
    ("/files/%", "% without two hexadecimal digits"),
    ("/files/%4", "% without two hexadecimal digits"),
    ("/files/%zz", "% without two hexadecimal digits"),
    ("/files/%u0041", "% without two hexadecimal digits"),
    ("/files/%%32%65", "% without two hexadecimal digits"),
    ("/files/%FF", "not UTF-8"),
    ("/files/%E9.mp4", "not UTF-8"),
    ("/files/%C3", "not UTF-8"),
    ("/files/%C0%AF", "not UTF-8"),
    ("/files/%C0%AE%C0%AE/a", "not UTF-8"),
    ("/files/%E0%80%AF", "not UTF-8"),
    ("/files/%F0%80%80%AF", "not UTF-8"),
    ("/files/%ED%A0%80", "not UTF-8"),
    ("/files/%F4%90%80%80", "not UTF-8"),
    ("/files/a%00", "U\\+0000"),
    ("/files/a%0Ab", "U\\+000A"),
    ("/files/a%0d%0ab", "U\\+000D"),
    ("/files/a%7F", "U\\+007F"),
    ("/files/a%C2%85", "U\\+0085"),
    ("/files/a%E2%80%AEb", "U\\+202E"),
    ("/files/" + "a" * 256, "longer than 255 bytes"),
    ("/files/" + "a/" * 600 + "b", "longer than 1024 bytes"),
)
"""Refused paths, most of which two parsers could read in two ways, each with a regular expression for the detail of its problem."""


def media_names() -> st.SearchStrategy[MediaName]:
    """Any legal name."""
    segment = st.text(max_size=20) | st.text(st.sampled_from("%2eEfF5cC;/+ .?#&=\\~'é日🎬"), max_size=12)
    folder = st.lists(segment, max_size=3).map("/".join)
    names = st.tuples(folder, segment | st.sampled_from(AWKWARD_NAMES)).map(lambda pair: _legal_name(*pair))
    return names.filter(lambda name: name is not None).map(lambda name: name or MediaName("", "a"))


def _legal_name(folder: str, filename: str) -> MediaName | None:
    try:
        return validate_media_name(folder, filename)
    except BadRequest:
        return None
