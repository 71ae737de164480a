"""A receiver of webhooks for development: prints what comes, and verifies it. `python -m deploy.local.webhook_receiver --help`."""

import argparse
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from deploy.local.ports import HOST
from services.common.webhooks.signing import parse_secret, sign

MAX_MESSAGE_BYTES = 1024 * 1024
TOLERANCE_SECONDS = 300


class WebhookReceiver(ThreadingHTTPServer):
    """The server, with what it answers."""

    daemon_threads = True

    def __init__(self, port: int, secret: str, status: int, answer: dict[str, object]) -> None:
        super().__init__((HOST, port), RequestHandler)
        self.secret = secret
        self.status = status
        self.answer = json.dumps(answer).encode()

    def judge(self, identifier: str, timestamp: str, signatures: str, body: bytes) -> str:
        """Return whether the signature is right, in words."""
        if not self.secret:
            return "signature not checked: no --secret"
        if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS or "." in identifier:
            return "WRONG time or id"
        expected = sign(self.secret, identifier, int(timestamp), body)
        return "signature right" if expected in signatures.split(" ") else "WRONG signature"


class RequestHandler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: WebhookReceiver

    def do_POST(self) -> None:
        """Print the request and answer."""
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_MESSAGE_BYTES:
            self.send_error(413)
            return
        body = self.rfile.read(int(length))
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        identifier, timestamp, signatures = (self.headers.get(name, "") for name in names)
        verdict = self.server.judge(identifier, timestamp, signatures, body)
        print(f"{identifier or '-'}  {verdict}\n{_pretty(body)}", flush=True)
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(self.server.answer)))
        self.end_headers()
        self.wfile.write(self.server.answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing more."""


def _pretty(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), ensure_ascii=True, indent=2)
    except (ValueError, RecursionError):
        return repr(body[:1000])


def _secret(text: str) -> str:
    if text:
        parse_secret(text)
    return text


def main(arguments: list[str] | None = None) -> None:
    """Receive until interrupted."""
    parser = argparse.ArgumentParser(description="Receives webhooks on this machine, prints and verifies them.")
    parser.add_argument("--port", type=int, default=9000, help="default: 9000")
    parser.add_argument("--secret", type=_secret, default="", help="whsec_...: signatures are verified")
    parser.add_argument("--status", type=int, default=200, help="what is answered; default: 200")
    parser.add_argument("--deny", metavar="TEXT", help="as an upload hook: deny with this text")
    options = parser.parse_args(arguments)
    answer: dict[str, object] = {"allow": True} if options.deny is None else {"allow": False, "detail": options.deny}
    try:
        receiver = WebhookReceiver(options.port, options.secret, options.status, answer)
    except (OSError, OverflowError) as error:
        sys.exit(f"port {options.port} cannot be used: {error}")
    print(f"http://{HOST}:{receiver.server_address[1]}/", flush=True)
    try:
        receiver.serve_forever()
    except KeyboardInterrupt:
        receiver.server_close()


if __name__ == "__main__":
    main()
