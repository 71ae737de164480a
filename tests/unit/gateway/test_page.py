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


WEBHOOKS = """
const elements = {};
function made() {
  return {
    children: [], textContent: "",
    append(...more) { this.children.push(...more); },
    replaceChildren(...only) { this.children = only; },
  };
}
globalThis.document = { createElement: made };
const at = (id) => (elements[id] ??= made());
const element = (name, text, properties = {}) => Object.assign(made(), { textContent: text, ...properties });
const requests = [];
let status = 200;
globalThis.fetch = async (path, { method, headers, body }) => {
  requests.push([method, path, headers.authorization ?? null, body ?? null]);
  if (status !== 200) return new Response(JSON.stringify({ detail: "webhooks are off" }), { status });
  if (method === "POST") return new Response('{"replayed":1}');
  const endpoint = { id: "e", url: "https://a.example/<b>", ended: false, waiting: 2, oldest_seconds: 1.4, dead: 3 };
  const last = { state: "dead", status: null, error: "no answer" };
  const delivery = { id: "1.e", endpoint: "e", type: "file.created", created_at: "now", ...last };
  return new Response(JSON.stringify(path.includes("endpoints") ? [endpoint] : [delivery]));
};
const rest = () => new Promise((resolve) => setTimeout(resolve, 20));
const { showWebhooks } = await import("./webhooks.js");
showWebhooks({ at, element, token: () => "secret" });
const before = requests.length;
at("webhooks").open = true;
at("webhooks").ontoggle();
await rest();
const texts = (id) => elements[id].children[0].children.map((cell) => cell.textContent || cell.children[0].textContent);
const shown = [texts("endpoints"), texts("deliveries")];
elements.deliveries.children[0].children.at(-1).children[0].onclick();
await rest();
status = 404;
at("webhooks").ontoggle();
await rest();
const sent = requests.filter(([method]) => method === "POST");
console.log(JSON.stringify({ before, shown, sent, failed: elements["webhooks-result"].textContent }));
"""


def test_webhooks_are_shown_when_they_are_asked_for_and_sent_again(tmp_path: Path) -> None:
    node = require_program("node", "nodejs")
    shutil.copy(PAGE_DIR / "webhooks.js", tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}', "utf-8")
    (tmp_path / "browser.js").write_text(WEBHOOKS, "utf-8")
    done = subprocess.run([node, "browser.js"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "before": 0,
        "shown": [
            ["e", "https://a.example/<b>", "2", "1 s", "3", "Send dead again"],
            ["e", "file.created", "dead", "no answer", "now", "Send again"],
        ],
        "sent": [["POST", "/webhooks/replays", "Bearer secret", '{"id":"1.e"}']],
        "failed": "webhooks are off",
    }


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
