"""Signatures judged by the library of Standard Webhooks for JavaScript: accepted as ours, refused where they are not."""

import json
import subprocess
import time
from pathlib import Path

from services.common.webhooks.signing import make_secret, signature_headers
from tests.support.npm import NpmPackages

PROGRAM = """
import { readFileSync } from "node:fs";
import { Webhook, WebhookVerificationError } from "standardwebhooks";
const found = {};
for (const [name, [secret, headers, body]] of Object.entries(JSON.parse(readFileSync(0, "utf8")))) {
  try { found[name] = new Webhook(secret).verify(body, headers).type; }
  catch (error) { found[name] = error instanceof WebhookVerificationError ? null : String(error); }
}
console.log(JSON.stringify(found));
"""


def test_the_library_for_javascript(npm: NpmPackages, tmp_path: Path) -> None:
    folder = npm.require(tmp_path / "npm", ["standardwebhooks"])
    (folder / "verify.mjs").write_text(PROGRAM, "utf-8")
    secret, foreign, now = make_secret(), make_secret(), int(time.time())
    body = json.dumps({"type": "file.created", "data": {"filename": "\u00e4.webm"}}, ensure_ascii=False)
    good = signature_headers([secret], "e1", now, body.encode())
    cases = {
        "good": [secret, good, body],
        "the old secret": [secret, signature_headers([foreign, secret], "e1", now, body.encode()), body],
        "tampered": [secret, good, f"{body} "],
        "old": [secret, signature_headers([secret], "e1", now - 3600, body.encode()), body],
        "early": [secret, signature_headers([secret], "e1", now + 3600, body.encode()), body],
        "foreign": [foreign, good, body],
    }
    done = subprocess.run(
        ["node", "verify.mjs"],
        input=json.dumps(cases),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    accepted = {"good", "the old secret"}
    assert json.loads(done.stdout) == {name: "file.created" if name in accepted else None for name in cases}
