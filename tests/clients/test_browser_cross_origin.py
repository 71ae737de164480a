"""Pages of other origins in Chromium: what a hostile one cannot do, what one of an allowed origin can, and a rebound host name."""

import http.server
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.chromium import ChromiumBrowser, run_chromium
from tests.support.stack import Stack, run_forked_stack
from tests.support.waiting import eventually

# Answers with the outcome of everything that a page can do with another origin: 'refused', a status, 'opaque', 'load', 'error'.
ATTEMPTS_SCRIPT = """
const [base, tag, done] = arguments;
const form = (name) => {
  const data = new FormData();
  data.append('file', new File(['x'], `${tag}-${name}`));
  return data;
};
const upload = `${base}/file/upload?folder=foreign`;
const outcome = (sent) => sent.then((r) => (r.type === 'opaque' ? 'opaque' : r.status), () => 'refused');
const put = {method: 'PUT', body: 'x'};
const embedded = (name, source) => new Promise((resolve) => {
  const element = document.createElement(name);
  element.onload = element.onloadeddata = () => resolve('load');
  element.onerror = () => resolve('error');
  element.src = source;
  document.body.appendChild(element);
});
// A form as HTML knows it, posted into a frame: no script could stop its request.
const submitted = () => new Promise((resolve) => {
  const frame = document.createElement('iframe');
  frame.name = 'target';
  const html = document.createElement('form');
  Object.assign(html, {action: upload, method: 'post', enctype: 'multipart/form-data', target: 'target'});
  const input = document.createElement('input');
  Object.assign(input, {type: 'file', name: 'file'});
  const files = new DataTransfer();
  files.items.add(new File(['x'], `${tag}-submitted`));
  input.files = files.files;
  html.appendChild(input);
  document.body.append(frame, html);
  frame.onload = () => resolve('answered');
  html.submit();
});
const websocket = () => new Promise((resolve) => {
  const socket = new WebSocket(`${base.replace('http', 'ws')}/ws`);
  socket.onmessage = () => { socket.close(); resolve('open'); };
  socket.onerror = () => resolve('refused');
});
(async () => {
  const file = (name) => `${base}/file/stream?folder=victim&filename=${name}`;
  const seen = {};
  seen.form = await outcome(fetch(upload, {method: 'POST', body: form('form'), mode: 'no-cors'}));
  seen.cors = await outcome(fetch(upload, {method: 'POST', body: form('cors')}));
  seen.beacon = navigator.sendBeacon(upload, form('beacon'));
  seen.submitted = await submitted();
  seen.put = await outcome(fetch(`${base}/file/stream?folder=foreign&filename=${tag}-put`, put));
  seen.remove = await outcome(fetch(file('removable'), {method: 'DELETE'}));
  seen.push = await outcome(fetch(`${base}/sockets/messages`, {method: 'POST', body: '{"type":"a"}', mode: 'no-cors'}));
  seen.read = await outcome(fetch(file('a.js')));
  seen.script = await embedded('script', file('a.js'));
  seen.leak = window.leak ?? null;
  seen.image = await embedded('img', file('a.png'));
  seen.missing = await embedded('img', file('missing.png'));
  seen.websocket = await websocket();
  return seen;
})().then(done, (error) => done({error: String(error)}));
"""
ATTEMPTS = 3
"""Of a page that may do everything: Chromium fails requests when any network interface of the machine comes or goes."""
UPLOADS = ("form", "cors", "beacon", "submitted", "put")


def make_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


class EmptyPage(http.server.BaseHTTPRequestHandler):
    """Answers every GET with an empty page."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>a page</title><body>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name of the standard library
        del format, args


@pytest.fixture(scope="module")
def page_port() -> Iterator[int]:
    """The port of a server for pages of any name below .example."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, page_port: int) -> Iterator[Stack]:
    """A stack that allows one other origin."""
    env = {"GRIDCAST_ALLOWED_ORIGINS": f"http://friend.example:{page_port}"}
    with run_forked_stack(tmp_path_factory.mktemp("origins") / "data", env=env) as stack:
        with httpx.Client(base_url=stack.url, trust_env=False) as client:
            for name, kind, body in (
                ("a.js", "text/javascript", b"window.leak = 1"),
                ("a.png", "image/png", make_png()),
                ("removable", "text/plain", b"x"),
            ):
                path = f"/file/stream?folder=victim&filename={name}"
                client.put(path, content=body, headers={"Content-Type": kind}).raise_for_status()
        yield stack
    stack.delete_data()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromiumBrowser]:
    with run_chromium(tmp_path_factory.mktemp("chromium"), "--host-resolver-rules=MAP *.example 127.0.0.1") as browser:
        yield browser


def is_stored(stack: Stack, name: str, folder: str = "foreign") -> bool:
    query = {"folder": folder, "filename": name}
    return httpx.get(f"{stack.url}/file/info", params=query, trust_env=False).status_code == 200


def attempt_all(browser: ChromiumBrowser, page: str, stack: Stack, tag: str) -> dict[str, Any]:
    browser.open_url(page)
    seen: dict[str, Any] = browser.run_script(ATTEMPTS_SCRIPT, stack.url, tag)
    assert "error" not in seen, seen
    return seen


@pytest.mark.parametrize("origin", ["http://hostile.example:{port}", "http://localhost:{port}"])
def test_a_hostile_page_changes_and_reads_nothing(
    browser: ChromiumBrowser, stack: Stack, page_port: int, origin: str
) -> None:
    tag = f"hostile-{origin[7:12]}"
    httpx.put(f"{stack.url}/file/stream?folder=victim&filename=removable", content=b"x", trust_env=False)
    seen = attempt_all(browser, origin.format(port=page_port), stack, tag)
    assert seen == {
        "form": "refused",  # and not an opaque response: Cross-Origin-Resource-Policy
        "cors": "refused",
        "beacon": True,  # it was sent
        "submitted": "answered",
        "put": "refused",
        "remove": "refused",
        "push": "refused",
        "read": "refused",
        "script": "error",
        "leak": None,
        "image": "error",
        "missing": "error",
        "websocket": "refused",
    }
    # The beacon is sent in the background: its refusal is in the log.
    log = stack.log_dir / "gateway.log"
    eventually(lambda: log.read_text("utf-8").count('"status": 403') >= 4, 10)
    assert not [name for name in UPLOADS if is_stored(stack, f"{tag}-{name}")]
    assert is_stored(stack, "removable", "victim")


def test_a_page_of_an_allowed_origin_may_do_everything(browser: ChromiumBrowser, stack: Stack, page_port: int) -> None:
    expected = {
        "form": "opaque",
        "cors": 201,
        "beacon": True,
        "submitted": "answered",
        "put": 201,
        "remove": 204,
        "push": "opaque",
        "read": 200,
        "script": "load",
        "leak": 1,
        "image": "load",
        "missing": "error",
        "websocket": "open",
    }
    for attempt in range(ATTEMPTS):
        httpx.put(f"{stack.url}/file/stream?folder=victim&filename=removable", content=b"x", trust_env=False)
        tag = f"friend-{attempt}"
        seen = attempt_all(browser, f"http://friend.example:{page_port}", stack, tag)
        if seen == expected:
            break
    assert seen == expected
    for name in UPLOADS:
        eventually(lambda name=name: is_stored(stack, f"{tag}-{name}"), 10, name)  # type: ignore[misc]


def test_a_rebound_name_is_misdirected(browser: ChromiumBrowser, stack: Stack) -> None:
    """attacker.example resolves to the address of the gateway: for the browser its page has the gateway's origin."""
    browser.open_url(f"http://attacker.example:{stack.port}/livez")
    script = """
      const done = arguments[0], put = {method: 'PUT', body: 'x'};
      Promise.all([fetch('/file'), fetch('/file/stream?folder=foreign&filename=rebound', put)])
        .then((all) => done(all.map((one) => one.status)), (error) => done(String(error)));
    """
    assert browser.run_script(script) == [421, 421]
    assert not is_stored(stack, "rebound")
