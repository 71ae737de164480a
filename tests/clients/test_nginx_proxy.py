"""nginx before the gateway, with TLS and HTTP/2 in front and no buffering: curl, Chromium and the JDK's client through it.

Each server writes Host in one of the ways that are in use.
"""

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.ports import HOST, free_ports
from tests.support.chromium import ChromiumBrowser, run_chromium
from tests.support.programs import JAVA_OPTIONS, require_program
from tests.support.raw_sockets import accepts_connections
from tests.support.stack import Stack, run_forked_stack
from tests.support.waiting import eventually

NAME = "media.example"
HOST_FIELDS = {"host and server port": "$host:$server_port", "http_host": "$http_host"}
JAVA_CLIENT = Path(__file__).with_name("TlsClient.java")
SIZE = 20 * 1024 * 1024 + 1
ATTEMPTS = 5
"""Of a page: Chromium cuts its HTTP/2 connections when any network interface of the machine comes or goes (ERR_NETWORK_CHANGED)."""
_numbers = itertools.count()

NGINX_CONFIGURATION = """
daemon off; error_log {folder}/error.log; pid {folder}/pid; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  map $http_upgrade $connection_option {{ default upgrade; '' ''; }}
  {servers}
}}
"""
NGINX_SERVER = """
  server {{
    listen {address}:{port} ssl http2; server_name {name};
    ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    location / {{
      proxy_pass http://{address}:{gateway_port}; proxy_http_version 1.1;
      proxy_request_buffering off; proxy_buffering off;
      proxy_set_header Host {host}; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_option;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}
"""


@dataclass(frozen=True)
class Proxy:
    """A running nginx: its origin for each way of writing Host, and its certificate."""

    ports: dict[str, int]
    certificate: Path

    def url(self, host_field: str) -> str:
        return f"https://{NAME}:{self.ports[host_field]}"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that knows the name of the proxy, and not its address: X-Forwarded-* of anyone is ignored."""
    folder = tmp_path_factory.mktemp("proxied") / "data"
    with run_forked_stack(folder, env={"GRIDCAST_ALLOWED_HOSTS": NAME}) as stack:
        yield stack
    stack.delete_data()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Proxy]:
    nginx, openssl = require_program("nginx", "nginx-light"), require_program("openssl", "openssl")
    folder = tmp_path_factory.mktemp("nginx")
    command = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    command += ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    ports = dict(zip(HOST_FIELDS, free_ports(len(HOST_FIELDS)), strict=True))
    fixed = {"address": HOST, "name": NAME, "folder": folder, "gateway_port": stack.port}
    servers = "".join(NGINX_SERVER.format(port=ports[key], host=value, **fixed) for key, value in HOST_FIELDS.items())
    (folder / "nginx.conf").write_text(NGINX_CONFIGURATION.format(folder=folder, servers=servers))
    process = subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
    try:
        for port in ports.values():
            eventually(lambda port=port: accepts_connections(port), 10, "nginx listens")  # type: ignore[misc]
        yield Proxy(ports, folder / "cert.pem")
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChromiumBrowser]:
    flags = ("--ignore-certificate-errors", f"--host-resolver-rules=MAP *.example {HOST}")
    with run_chromium(tmp_path_factory.mktemp("chromium"), *flags) as browser:
        yield browser


def run_curl(proxy: Proxy, url: str, *arguments: str) -> tuple[int, str, bytes]:
    """Return the status, the version of HTTP and the body."""
    curl = require_program("curl", "curl")
    resolve = [part for port in proxy.ports.values() for part in ("--resolve", f"{NAME}:{port}:{HOST}")]
    command = [curl, "-sS", "--noproxy", "*", "--max-time", "60", "--cacert", str(proxy.certificate), *resolve]
    command += ["-w", "\n%{http_code} %{http_version}", *arguments, url]
    done = subprocess.run(command, check=True, capture_output=True, timeout=90)
    body, _, end = done.stdout.rpartition(b"\n")
    status, version = end.decode().split()
    return int(status), version, body


@pytest.mark.parametrize("host_field", HOST_FIELDS)
@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
def test_curl_uploads_and_downloads(proxy: Proxy, host_field: str, version: str, tmp_path: Path) -> None:
    base, number = proxy.url(host_field), next(_numbers)
    content = os.urandom(SIZE)
    (tmp_path / "a.bin").write_bytes(content)
    file = f"{base}/file/stream?folder=curl&filename=put-{number}"
    expected = "2" if version == "--http2" else "1.1"
    assert run_curl(proxy, file, version, "-T", str(tmp_path / "a.bin"))[:2] == (201, expected)
    assert run_curl(proxy, file, version) == (200, expected, content)
    assert run_curl(proxy, file, version, "-r", "5-104") == (206, expected, content[5:105])
    form = ("-F", f"file=@{tmp_path / 'a.bin'};filename=form-{number}")
    assert run_curl(proxy, f"{base}/file/upload?folder=curl", version, *form)[0] == 201
    assert run_curl(proxy, f"{base}/sockets/messages", version, "--json", '{"type": "a"}')[0] == 200


@pytest.mark.parametrize("host_field", HOST_FIELDS)
@pytest.mark.parametrize(
    ("origin", "site", "expected"),
    [
        ("{own}", None, 201),
        ("{own}", "same-origin", 201),
        ("https://media.example", None, 403),  # of another port
        ("https://evil.example", None, 403),
        ("https://evil.example", "cross-site", 403),
        ("null", "cross-site", 403),
        ("{own}", "cross-site", 403),  # redirected through another site
        (None, "same-site", 403),
    ],
)
def test_origins_through_the_proxy(
    proxy: Proxy, host_field: str, origin: str | None, site: str | None, expected: int
) -> None:
    base = proxy.url(host_field)
    said = [f"Origin: {origin.format(own=base)}"] if origin else []
    said += [f"Sec-Fetch-Site: {site}"] if site else []
    fields = [argument for line in said for argument in ("-H", line)]
    url = f"{base}/file/stream?folder=curl&filename=origin-{next(_numbers)}"
    assert run_curl(proxy, url, "-X", "PUT", "-d", "x", *fields)[0] == expected


@pytest.mark.parametrize("host_field", HOST_FIELDS)
def test_unknown_names_are_misdirected_through_the_proxy(proxy: Proxy, host_field: str) -> None:
    """The one server of nginx gets the requests for any name; the gateway judges what it passes on."""
    url = f"{proxy.url(host_field)}/file"
    assert run_curl(proxy, url)[0] == 200
    status, _, body = run_curl(proxy, url, "-H", "Host: attacker.example")
    assert (status, json.loads(body)["title"]) == (421, "Misdirected Request")


PAGE_SCRIPT = """
const [tag, done] = arguments;
const data = new FormData();
data.append('file', new File(['x'], `form-${tag}`));
const websocket = new Promise((resolve) => {
  const socket = new WebSocket(`wss://${location.host}/ws`);
  socket.onmessage = (event) => { socket.close(); resolve('sid' in JSON.parse(event.data)); };
  socket.onerror = () => resolve('refused');
});
(async () => [
  (await fetch('/file/upload?folder=page', {method: 'POST', body: data})).status,
  (await fetch(`/file/stream?folder=page&filename=put-${tag}`, {method: 'PUT', body: 'x'})).status,
  (await fetch(`/file/stream?folder=page&filename=put-${tag}`, {method: 'DELETE'})).status,
  await websocket,
])().then(done, (error) => done(String(error)));
"""
FOREIGN_PAGE_SCRIPT = """
const [base, tag, done] = arguments;
const refused = (sent) => sent.then((answer) => answer.status, () => 'refused');
const websocket = new Promise((resolve) => {
  const socket = new WebSocket(`${base.replace('https', 'wss')}/ws`);
  socket.onopen = () => resolve('open');
  socket.onerror = () => resolve('refused');
});
const data = new FormData();
data.append('file', new File(['x'], `foreign-${tag}`));
(async () => [
  await refused(fetch(`${base}/file/upload?folder=page`, {method: 'POST', body: data})),
  await refused(fetch(`${base}/file`)),
  await websocket,
])().then(done, (error) => done(String(error)));
"""


def open_product_page(browser: ChromiumBrowser, url: str) -> None:
    """Open the page until it is connected."""

    def is_connected() -> bool:
        browser.open_url(url)
        return bool(eventually(lambda: browser.evaluate("return document.body.innerText.includes('Live')"), 8))

    eventually(is_connected, 30)


@pytest.mark.parametrize("host_field", HOST_FIELDS)
def test_pages_through_the_proxy(proxy: Proxy, browser: ChromiumBrowser, host_field: str) -> None:
    open_product_page(browser, f"{proxy.url(host_field)}/")
    for _ in range(ATTEMPTS):
        seen = browser.run_script(PAGE_SCRIPT, str(next(_numbers)))
        if seen != "TypeError: Failed to fetch":
            break
    assert seen == [201, 201, 204, True]
    # The same address by another name is another origin: it stands for a hostile page.
    tag = str(next(_numbers))
    other = next(key for key in HOST_FIELDS if key != host_field)
    assert browser.run_script(FOREIGN_PAGE_SCRIPT, proxy.url(other), tag) == ["refused"] * 3
    assert run_curl(proxy, f"{proxy.url(host_field)}/file/info?folder=page&filename=foreign-{tag}")[0] == 404


@pytest.fixture(scope="module")
def trust_store(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of the proxy, as Java reads it."""
    store = tmp_path_factory.mktemp("java") / "trusted.p12"
    command = [require_program("keytool", "default-jdk-headless"), *(f"-J{option}" for option in JAVA_OPTIONS)]
    command += ["-importcert", "-noprompt", "-alias", "proxy", "-file", str(proxy.certificate)]
    command += ["-keystore", str(store), "-storetype", "PKCS12", "-storepass", "changeit"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return store


@pytest.mark.parametrize("host_field", HOST_FIELDS)
def test_the_client_of_the_jdk(proxy: Proxy, trust_store: Path, host_field: str, tmp_path: Path) -> None:
    require_program("javac", "default-jdk-headless")  # a JRE compiles no source file
    java = require_program("java", "default-jdk-headless")
    (tmp_path / "hosts").write_text(f"{HOST} {NAME}\n")
    options = [f"-Djavax.net.ssl.trustStore={trust_store}", "-Djavax.net.ssl.trustStorePassword=changeit"]
    options += [f"-Djdk.net.hosts.file={tmp_path / 'hosts'}"]
    done = subprocess.run(
        [java, *JAVA_OPTIONS, *options, str(JAVA_CLIENT), proxy.url(host_field), str(next(_numbers))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
