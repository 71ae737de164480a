"""Forms of independent clients through the gateway: each writes the same name in another way, and it stays the same name."""

import asyncio
import base64
import json
import subprocess
from collections.abc import Callable
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import HTTP
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import aiohttp
import httpx
import pytest
import requests

from tests.support.programs import require_program
from tests.support.stack import Stack

CONTENT = bytes(range(256)) * 3
NAMES = (
    "plain.mp4",
    "na\u00efve.mp4",
    "\u65e5\u672c\u8a9e.mp4",
    'say "hi".mp4',
    "100%.mp4",
    "a%20b.mp4",
    "a b;c=d, e.mp4",
    "=?x.mp4",
    "it's.mp4",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4",
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.mp4",
)
Send = Callable[[str, str, Path], str]
"""Sends a form with the file and a text field to a URL; returns where the file can be read."""


def send_with_httpx(url: str, name: str, _folder: Path) -> str:
    answer = httpx.post(url, files={"file": (name, CONTENT)}, data={"title": name})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def send_with_requests(url: str, name: str, _folder: Path) -> str:
    answer = requests.post(url, files={"file": (name, CONTENT)}, data={"title": name}, timeout=30)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def _send_with_aiohttp(url: str, name: str, *, quote_fields: bool, headers: dict[str, str]) -> str:
    async def send() -> str:
        form = aiohttp.FormData(quote_fields=quote_fields)
        form.add_field("title", name)
        form.add_field("file", CONTENT, filename=name, content_type="video/mp4")
        async with aiohttp.ClientSession(headers=headers) as session, session.post(url, data=form) as answer:
            assert answer.status == 201, await answer.text()
            return answer.headers["location"]

    return asyncio.run(send())


def send_with_aiohttp(url: str, name: str, _folder: Path) -> str:
    return _send_with_aiohttp(url, name, quote_fields=True, headers={})


def send_with_aiohttp_under_another_name(url: str, name: str, _folder: Path) -> str:
    return _send_with_aiohttp(url, name, quote_fields=True, headers={"user-agent": "my-app/1"})


def send_with_aiohttp_unquoted(url: str, name: str, _folder: Path) -> str:
    """Percent signs are not escaped then, and what they mean cannot be told from other forms of aiohttp."""
    return _send_with_aiohttp(url, name.replace("%", ""), quote_fields=False, headers={})


def send_with_email_package(url: str, name: str, _folder: Path) -> str:
    """The recipe for those who have only the standard library: base64, folded fields, `filename*`."""
    form = MIMEMultipart("form-data")
    text = MIMEText(name, "plain", "utf-8")
    text.add_header("Content-Disposition", "form-data", name="title")
    file = MIMEApplication(CONTENT)
    file.add_header("Content-Disposition", "form-data", name="file", filename=("utf-8", "", name))
    for part in (text, file):
        del part["MIME-Version"]
        form.attach(part)
    head, _, body = form.as_bytes(policy=HTTP).partition(b"\r\n\r\n")
    assert b"base64" in body
    fields = dict(line.split(": ", 1) for line in head.decode().replace("\r\n ", " ").split("\r\n"))
    answer = httpx.post(url, content=body, headers={"content-type": fields["Content-Type"]})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def _send_with_curl(url: str, name: str, folder: Path, *options: str) -> str:
    curl = require_program("curl", "curl")
    path = folder / "content"
    path.write_bytes(CONTENT)
    (folder / "title").write_text(name, "utf-8")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    form = ("-F", f'file=@{path};filename="{quoted}"', "-F", f"title=<{folder / 'title'}")
    command = [curl, "--silent", "--show-error", "--fail", "--dump-header", "-", *options, *form, url]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.returncode == 0, run.stderr
    return next(line[10:].strip() for line in run.stdout.splitlines() if line.lower().startswith("location: "))


def send_with_curl(url: str, name: str, folder: Path) -> str:
    return _send_with_curl(url, name, folder)


def send_with_curl_and_backslashes(url: str, name: str, folder: Path) -> str:
    return _send_with_curl(url, name, folder, "--form-escape")


NODE_SCRIPT = """
const [url, name, content] = JSON.parse(require("fs").readFileSync(0));
const form = new FormData();
form.append("title", name);
form.append("file", new Blob([Buffer.from(content, "base64")]), name);
fetch(url, { method: "POST", body: form }).then(async (answer) => {
  console.log(JSON.stringify([answer.status, answer.headers.get("location"), await answer.text()]));
});
"""


def send_with_fetch(url: str, name: str, _folder: Path) -> str:
    """Node's fetch writes forms as the HTML standard says, as browsers do."""
    node = require_program("node", "nodejs")
    sent = json.dumps([url, name, base64.b64encode(CONTENT).decode()])
    run = subprocess.run([node, "-e", NODE_SCRIPT], input=sent, capture_output=True, text=True, timeout=30, check=True)
    status, location, text = json.loads(run.stdout)
    assert status == 201, text
    return str(location)


CLIENTS: tuple[Send, ...] = (
    send_with_httpx,
    send_with_requests,
    send_with_aiohttp,
    send_with_aiohttp_under_another_name,
    send_with_aiohttp_unquoted,
    send_with_email_package,
    send_with_curl,
    send_with_curl_and_backslashes,
    send_with_fetch,
)


@pytest.mark.parametrize("send", CLIENTS, ids=lambda send: send.__name__)
def test_a_name_is_the_same_whatever_client_sends_it(stack: Stack, tmp_path: Path, send: Send) -> None:
    for name in NAMES:
        folder = f"forms-{uuid4().hex}"
        location = send(f"{stack.url}/file/upload?folder={folder}", name, tmp_path)
        stored = httpx.get(stack.url + location)
        assert stored.status_code == 200
        assert stored.content == CONTENT
        expected = name.replace("%", "") if send is send_with_aiohttp_unquoted else name
        assert parse_qs(urlsplit(location).query)["filename"] == [expected]
        info = httpx.get(f"{stack.url}/file/info", params={"filename": expected, "folder": folder}).json()
        assert (info["filename"], info["metadata"]) == (expected, {"title": expected})
        assert info["content_type"] == "video/mp4"
        # The same name by PUT is the same file.
        again = httpx.put(f"{stack.url}/file/stream", params={"filename": expected, "folder": folder}, content=b"")
        assert again.status_code == 200
