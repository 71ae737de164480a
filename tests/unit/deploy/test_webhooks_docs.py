"""docs/webhooks.md: its verifiers are run, its figures are those of the code, its receiver receives."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.local.processes import PROJECT_ROOT, die_with_parent_command
from services.common.webhooks import upload_hook
from services.common.webhooks.endpoints import parse_endpoints, parse_hook
from services.common.webhooks.hook_protocol import parse_answer
from services.common.webhooks.signing import make_secret, signature_headers
from services.upload.webhooks import delivery_worker
from services.upload.webhooks.retry_schedule import RETRY_DELAYS_SECONDS

PAGE = (PROJECT_ROOT / "docs/webhooks.md").read_text("utf-8")
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # the example of Standard Webhooks: the same in every worker of xdist
BODY = '{"type":"file.created","data":{"filename":"\u00e4.webm"}}'.encode()
Message = tuple[str, dict[str, str], bytes]


def code_block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def messages() -> dict[str, tuple[Message, bool]]:
    now = int(time.time())
    good = signature_headers([SECRET], "e1", now, BODY)
    foreign = make_secret()
    signature = good["webhook-signature"]
    return {
        "good": ((SECRET, good, BODY), True),
        "two secrets, the old one here": ((SECRET, signature_headers([foreign, SECRET], "e1", now, BODY), BODY), True),
        "four minutes old": ((SECRET, signature_headers([SECRET], "e1", now - 240, BODY), BODY), True),
        "an hour old": ((SECRET, signature_headers([SECRET], "e1", now - 3600, BODY), BODY), False),
        "six minutes early": ((SECRET, signature_headers([SECRET], "e1", now + 360, BODY), BODY), False),
        "another body": ((SECRET, good, BODY + b" "), False),
        "another id": ((SECRET, {**good, "webhook-id": "e2"}, BODY), False),
        "another time": ((SECRET, {**good, "webhook-timestamp": str(now - 1)}, BODY), False),
        "of another endpoint": ((foreign, good, BODY), False),
        "no headers": ((SECRET, {}, BODY), False),
        "no signature": ((SECRET, {**good, "webhook-signature": ""}, BODY), False),
        "no id": ((SECRET, {**good, "webhook-id": ""}, BODY), False),
        "without a version": ((SECRET, {**good, "webhook-signature": signature.removeprefix("v1,")}, BODY), False),
        "another version": ((SECRET, {**good, "webhook-signature": f"v2{signature[2:]}"}, BODY), False),
        "cut": ((SECRET, {**good, "webhook-signature": signature[:-1]}, BODY), False),
        "longer": ((SECRET, {**good, "webhook-signature": f"{signature}="}, BODY), False),
        "no base64": ((SECRET, {**good, "webhook-signature": "v1,\u20ac \u20ac,,"}, BODY), False),
        "time as text": ((SECRET, {**good, "webhook-timestamp": "now"}, BODY), False),
        "time with a dot": ((SECRET, {**good, "webhook-timestamp": f"{now}.0"}, BODY), False),
        "time as infinity": ((SECRET, {**good, "webhook-timestamp": "1e999"}, BODY), False),
        "time in other digits": ((SECRET, {**good, "webhook-timestamp": "\u0661\u0662"}, BODY), False),
    }


def test_the_verifier_in_python() -> None:
    namespace: dict[str, Any] = {}
    exec(compile(code_block("python"), "webhooks.md", "exec"), namespace)
    verify: Callable[..., None] = namespace["verify"]
    accepted: dict[str, bool] = {}
    for name, (message, _) in messages().items():
        try:
            verify(*message)
        except ValueError:
            accepted[name] = False
        else:
            accepted[name] = True
    assert accepted == {name: is_authentic for name, (_, is_authentic) in messages().items()}


def test_the_verifier_in_javascript(tmp_path: Path) -> None:
    node = shutil.which("node")
    assert node is not None, "Node.js runs the page's verifier"
    cases = {
        name: [secret, headers, base64.b64encode(body).decode()]
        for name, ((secret, headers, body), _) in messages().items()
    }
    (tmp_path / "verify.mjs").write_text(code_block("javascript"), "utf-8")
    program = """
        import { readFileSync } from "node:fs";
        import { verify } from "./verify.mjs";
        const found = {};
        for (const [name, [secret, headers, body]] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
          try { verify(secret, headers, Buffer.from(body, "base64")); found[name] = true; }
          catch (error) { found[name] = /too old|matches/.test(error.message) ? false : String(error); }
        }
        console.log(JSON.stringify(found));
    """
    (tmp_path / "run.mjs").write_text(program, "utf-8")
    done = subprocess.run(
        [node, "run.mjs"], input=json.dumps(cases), cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == {name: is_authentic for name, (_, is_authentic) in messages().items()}


def test_the_figures_of_the_page() -> None:
    hours = [delay / 3600 for delay in RETRY_DELAYS_SECONDS]
    assert RETRY_DELAYS_SECONDS[:3] == (5, 300, 1800)
    assert "after 5 s, 5 and 30 minutes, " + ", ".join(f"{hour:g}" for hour in hours[3:-1]) in PAGE
    assert f"and {hours[-1]:g} hours" in PAGE
    assert f"within {delivery_worker.TRY_TIMEOUT_SECONDS:g} seconds" in PAGE
    assert (upload_hook.HOOK_TIMEOUT_SECONDS, upload_hook.MAX_HOOK_ANSWER_BYTES) == (3, 16 * 1024)
    [endpoints] = re.findall(r"^    (\[\{.*\}\])$", PAGE, re.MULTILINE)
    [endpoint] = parse_endpoints(endpoints, lambda path: SECRET if path == "/run/secrets/orders" else "")
    assert endpoint.id == "orders"
    assert parse_hook(json.dumps({"url": "http://localhost:9000/", "secret": SECRET}), str).secrets == (SECRET,)
    members = re.findall(r"^\| (`.*?) \|", PAGE[PAGE.index("## The upload hook") :], re.MULTILINE)
    named = {name for row in members for name in re.findall(r"`(\w+)`", row)}
    values: dict[str, Any] = {"allow": True, "metadata": {}, "max_bytes": 1, "content_types": ["a/b"]}
    assert parse_answer(json.dumps({name: values.get(name, "x") for name in named}).encode()).filename == "x"


@pytest.mark.parametrize(
    ("options", "secret", "status", "answer", "said"),
    [
        (["--secret", SECRET], SECRET, 200, {"allow": True}, "e1  signature right"),
        (["--secret", make_secret(), "--status", "500"], SECRET, 500, {"allow": True}, "e1  WRONG signature"),
        (["--deny", "not today"], SECRET, 200, {"allow": False, "detail": "not today"}, "e1  signature not checked"),
    ],
)
def test_the_receiver_for_development(
    options: list[str], secret: str, status: int, answer: dict[str, Any], said: str
) -> None:
    command = [sys.executable, "-m", "deploy.local.webhook_receiver", "--port", "0", *options]
    process = subprocess.Popen(
        die_with_parent_command(command), cwd=PROJECT_ROOT, env=os.environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        headers = signature_headers([secret], "e1", int(time.time()), BODY)
        found = httpx.post(url, content=BODY, headers=headers)
        assert (found.status_code, found.json()) == (status, answer)
        assert process.stdout.readline().startswith(said)
    finally:
        process.terminate()
        process.communicate(timeout=10)
