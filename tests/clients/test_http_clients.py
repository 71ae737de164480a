"""HTTP clients that use what a server must accept: Java's and curl's offer of HTTP/2, curl behind a proxy, half a close."""

import json
import os
import socket
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.programs import JAVA_OPTIONS, require_program
from tests.support.raw_sockets import receive_until_closed
from tests.support.stack import Stack

JAVA_PROGRAM = """
import java.net.URI;
import java.net.http.*;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

public class Client {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();  // offers h2c with the first request of each connection
        String form = "--B\\r\\nContent-Disposition: form-data; name=\\"file\\"; filename=\\"" + args[1]
            + "\\"\\r\\n\\r\\nhello\\r\\n--B--\\r\\n";
        HttpRequest[] requests = {
            HttpRequest.newBuilder(URI.create(args[0] + "/file/stream?folder=java&filename=put-" + args[1]))
                .PUT(BodyPublishers.ofString("hello")).build(),
            HttpRequest.newBuilder(URI.create(args[0] + "/file/upload?folder=java"))
                .header("Content-Type", "multipart/form-data; boundary=B").POST(BodyPublishers.ofString(form)).build(),
            HttpRequest.newBuilder(URI.create(args[0] + "/sockets/messages"))
                .header("Content-Type", "application/json").POST(BodyPublishers.ofString("{\\"type\\":\\"java.said\\"}")).build(),
            HttpRequest.newBuilder(URI.create(args[0] + "/file/stream?folder=java&filename=put-" + args[1])).build(),
        };
        for (HttpRequest request : requests) {
            HttpResponse<String> response = client.send(request, BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body().strip());
        }
    }
}
"""


def run_curl(*arguments: str) -> str:
    """Standard output of curl: the status behind the body."""
    command = [
        require_program("curl", "curl"),
        "-sS",
        "--max-time",
        "30",
        "-w",
        " %{http_code} %{http_version}",
        *arguments,
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_java_uploads_with_its_defaults(stack: Stack, tmp_path: Path) -> None:
    program = tmp_path / "Client.java"
    program.write_text(JAVA_PROGRAM)
    name = f"{os.urandom(4).hex()}.txt"
    require_program("javac", "default-jdk-headless")  # a JRE compiles no source file
    run = subprocess.run(
        ["java", *JAVA_OPTIONS, str(program), stack.url, name], check=True, capture_output=True, text=True, timeout=120
    )
    put, form, push, get = run.stdout.splitlines()
    assert (put[:4], form[:4], get) == ("201 ", "201 ", "200 hello")
    assert json.loads(push.removeprefix("200 "))["status"] == "sent"


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_curl_offers_http_2(stack: Stack, *, chunked: bool) -> None:
    name = f"{os.urandom(4).hex()}.txt"
    url = f"{stack.url}/file/stream?folder=curl&filename={name}"
    framing = ["-H", "Transfer-Encoding: chunked"] if chunked else []
    assert run_curl("--http2", "-X", "PUT", "--data-binary", "hello", *framing, url).endswith(" 201 1.1")
    assert run_curl("--http2", url) == "hello 200 1.1"


def test_curl_takes_the_gateway_for_a_proxy(stack: Stack) -> None:
    """It sends the target in absolute form."""
    name = f"{os.urandom(4).hex()}.txt"
    url = f"{stack.url}/file/stream?folder=curl&filename={name}"
    assert run_curl("-x", stack.url, "-X", "PUT", "--data-binary", "hello", url).endswith(" 201 1.1")
    assert run_curl("-x", stack.url, url) == "hello 200 1.1"
    assert run_curl("-x", stack.url, "-I", f"{stack.url}/file").endswith(" 200 1.1")


def test_a_client_that_closes_its_half_gets_its_upload_and_its_push_answered(stack: Stack) -> None:
    address = urlsplit(stack.url)
    name = f"{os.urandom(4).hex()}.bin"
    data = os.urandom(700_000)
    push = json.dumps({"type": "half.closed"}).encode()
    sent = (
        b"PUT /file/stream?folder=half&filename=%s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n%s"
        % (name.encode(), address.netloc.encode(), len(data), data),
        b"POST /sockets/messages HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
        % (address.netloc.encode(), len(push), push),
        b"GET /file/stream?folder=half&filename=%s HTTP/1.0\r\n\r\n" % name.encode(),
    )
    received = []
    for request in sent:
        with socket.create_connection((address.hostname or "", address.port or 80), timeout=20) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            received.append(receive_until_closed(client))
    assert [response[9:12] for response in received] == [b"201", b"200", b"200"]
    assert received[2].partition(b"\r\n\r\n")[2] == data
    assert httpx.head(f"{stack.url}/file/stream", params={"folder": "half", "filename": name}).status_code == 200
