r"""services.upload.endpoints.content_disposition: one name, however a client writes it."""

import base64
from email.message import EmailMessage, Message
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import BadRequest
from services.upload.endpoints.content_disposition import decode_name, parse_field_value


def filename_of(parameters: str | bytes, *, percent_encoded: bool = False) -> str | None:
    """The filename of a part whose Content-Disposition has these parameters."""
    raw = parameters.encode() if isinstance(parameters, str) else parameters
    field = parse_field_value(b"form-data; name=file; " + raw, "Content-Disposition")
    assert field.value == "form-data"
    return decode_name(field.parameters, "filename", percent_encoded=percent_encoded)


def word(name: str, charset: str = "utf-8") -> str:
    """An RFC 2047 word, as .NET writes it."""
    return f"=?{charset}?B?{base64.b64encode(name.encode(charset)).decode()}?="


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ("", None),
        ('filename=""', ""),
        ('filename="a b.mp4"', "a b.mp4"),
        ("filename=a b.mp4", "a b.mp4"),
        ("filename=plain.mp4; filename*=utf-8''plain.mp4", "plain.mp4"),
        ('FILENAME = "a;b=c.mp4" ;', "a;b=c.mp4"),
        ('; ; filename="a" ; ;', "a"),
        # Browsers, curl, OkHttp, Dart, urllib3: %22, and every other percent sign as it is.
        ('filename="say %22hi%22.mp4"', 'say "hi".mp4'),
        ('filename="100%25.mp4"', "100%25.mp4"),
        ('filename="50%.mp4"', "50%.mp4"),
        ('filename="a%20b%2522.mp4"', "a%20b%2522.mp4"),
        ('filename="na%C3%AFve.mp4"', "na%C3%AFve.mp4"),
        ('filename="a%0D%0Ab"', "a\r\nb"),  # refused as a name, like the same one in a PUT
        ('filename="naïve.mp4"', "naïve.mp4"),
        # Go, Perl, aiohttp with quote_fields=False, curl --form-escape.
        (r'filename="say \"hi\".mp4"', 'say "hi".mp4'),
        (r'filename="a\\b.mp4"', r"a\b.mp4"),
        (r'filename="C:\dir\b.mp4"', r"C:\dir\b.mp4"),  # a browser: refused as a name, never "C:dirb.mp4"
        # .NET.
        (f"filename=\"{word('naïve.mp4')}\"; filename*=utf-8''na%C3%AFve.mp4", "naïve.mp4"),
        (f'filename="{word("日本語.mp4")}"', "日本語.mp4"),
        (f"filename={word('x y', 'iso-8859-1')}", "x y"),
        (f'filename="{word("né", "iso-8859-1")}"', "né"),
        ('filename="=?UTF-8?Q?na=C3=AFve_1.mp4?="', "naïve 1.mp4"),
        (f'filename="{word("日本")} {word("語.mp4")}"', "日本語.mp4"),
        ('filename="=?utf-8?B?==.mp4"', "=?utf-8?B?==.mp4"),
        # requests, reqwest.
        ("filename*=UTF-8''%E6%97%A5%20a.mp4", "日 a.mp4"),
        ("filename*=\"UTF-8'en'a%22b.mp4\"", 'a"b.mp4'),
        ("filename*=iso-8859-1''na%EFve.mp4", "naïve.mp4"),
        # RFC 2231.
        ("filename*0*=utf-8''%E6%97%A5; filename*1=%41; filename*2*=%42", "日%41B"),
        ('filename*1="b"; filename*0="a"', "ab"),
    ],
)
def test_one_name_however_it_is_written(parameters: str, name: str | None) -> None:
    assert filename_of(parameters) == name


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("na%C3%AFve%20%22x%22.mp4", 'naïve "x".mp4'),
        ("100%25.mp4", "100%.mp4"),
        ("plain-1_~.mp4", "plain-1_~.mp4"),
        ("a b%20c", "a b%20c"),  # a space is never left as it is: sent by something else
        ("50%.mp4", "50%.mp4"),
    ],
)
def test_a_client_that_percent_encodes_names_as_a_whole(sent: str, name: str) -> None:
    assert filename_of(f'filename="{sent}"', percent_encoded=True) == name


@pytest.mark.parametrize(
    ("parameters", "word"),
    [
        (b'filename="a', "malformed"),
        (b'filename="a"b', "malformed"),
        (b'filename="a\\"', "malformed"),
        (b'filename=a"b', "malformed"),
        (b"filename", "malformed"),
        (b"=a", "malformed"),
        (b"filename=a; filename=b", "two parameters"),
        (b"filename=a; FileName=b", "two parameters"),
        (b'filename="\xff"', "UTF-8"),
        (b"filename*=a.mp4", "charset"),
        (b"filename*=utf-8''a%.mp4", "percent-encoded"),
        (b"filename*=utf-8''%FF", "UTF-8"),
        (b"filename*=utf-16''%00a", "utf-16"),
        (b'filename="=?utf-8?B?!?="', "base64"),
        (b'filename="=?utf-8?B?/w==?="', "UTF-8"),
        (b'filename="=?koi8-r?B?/w==?="', "koi8-r"),
        (b"filename*0=a; filename*2=b", "missing"),
        (b"filename*0*=a", "charset"),
        (b"filename*00=a", "malformed"),
    ],
)
def test_what_cannot_be_read_is_refused(parameters: bytes, word: str) -> None:
    with pytest.raises(BadRequest, match=word):
        filename_of(parameters)


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=60)


@given(NAMES)
def test_names_of_pythons_email_package(name: str) -> None:
    legacy = Message()
    legacy.add_header("Content-Disposition", "form-data", name="file", filename=("utf-8", "", name))
    assert filename_of(str(legacy["Content-Disposition"]).partition('"file"; ')[2]) == name


def test_a_long_name_of_pythons_email_package() -> None:
    """Folded and in several parameters (RFC 2231, 3)."""
    name = "日本語の長い名前" * 6 + ".mp4"
    message = EmailMessage()
    message.add_header("Content-Disposition", "form-data", name="file", filename=name)
    value = message.as_bytes().partition(b": ")[2].partition(b"\n\n")[0].replace(b"\n", b"")
    assert b"filename*1*=" in value
    assert decode_name(parse_field_value(value, "Content-Disposition").parameters, "filename") == name


@given(NAMES.filter(lambda name: "%" not in name and not name.startswith("=?")))
def test_names_of_browsers_go_and_aiohttp(name: str) -> None:
    browser = name.replace('"', "%22")
    if "\\" not in name:
        assert filename_of(f'filename="{browser}"') == name
    go = name.replace("\\", "\\\\").replace('"', '\\"')
    assert filename_of(f'filename="{go}"') == name
    assert filename_of(f'filename="{quote(name, "")}"', percent_encoded=True) == name


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_only_bad_request(noise: bytes) -> None:
    for raw in (noise, b"filename" + noise, b"filename*=utf-8'" + noise):
        try:
            filename_of(raw)
        except BadRequest:
            continue


def test_a_hostile_field_takes_no_time() -> None:
    """4 KiB of what a backtracking expression would take hours for."""
    for piece in (b" ", b'\\"', b";", b'a="', b"=?a?B?b?= ", b"a= "):
        try:
            filename_of(b"filename=" + piece * (4096 // len(piece)) + b'"')
        except BadRequest:
            continue
