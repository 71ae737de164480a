"""The script of the web page with the client that it uses, in Node with stubs of the browser APIs."""

import json
import shutil
import subprocess
from pathlib import Path

from gateway.static_files import CLIENT_DIR, PAGE_DIR
from tests.support.programs import require_program

BROWSER_STUB = """
const elements = {};
function made() {
  return {
    children: [], textContent: "", hidden: false,
    append(...more) { this.children.push(...more); },
    prepend(...more) { this.children.unshift(...more); },
    replaceChildren(...only) { this.children = only; },
    get childElementCount() { return this.children.length; },
  };
}
globalThis.document = { getElementById: (id) => (elements[id] ??= made()), createElement: made, addEventListener() {} };
globalThis.location = { origin: "http://a", href: "http://a/" };
globalThis.WebSocket = class {};
globalThis.confirm = () => true;
const file = { filename: "a.txt", folder: "", length: 1, content_type: "text/plain" };
globalThis.fetch = async (address, options) => options?.method === "DELETE"
  ? new Response(JSON.stringify({ detail: "not yours" }), { status: 403 })
  : new Response(JSON.stringify({ files: [file] }));
const rest = () => new Promise((resolve) => setTimeout(resolve, 50));
await import("./index.js");
await rest();
const row = elements.files.children[0];
const found = { shown: elements["files-result"].textContent };
row.children.at(-1).children.find((button) => button.textContent === "Delete").onclick();
await rest();
console.log(JSON.stringify({ ...found, failed: elements["files-result"].textContent }));
process.exit(); // the heartbeat of the page's client has no end
"""


def test_deletion_error_stays_on_the_page(tmp_path: Path) -> None:
    node = require_program("node", "nodejs")
    page = tmp_path / "page"
    shutil.copytree(PAGE_DIR, page)
    shutil.copytree(CLIENT_DIR, page / "client")
    script = (page / "index.js").read_text("utf-8")
    assert script.count('"/client/') == 1
    (page / "index.js").write_text(script.replace('"/client/', '"./client/'), "utf-8")
    (page / "package.json").write_text('{"type": "module"}', "utf-8")
    (page / "browser.js").write_text(BROWSER_STUB, "utf-8")
    done = subprocess.run([node, "browser.js"], cwd=page, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"shown": "", "failed": "not yours"}
