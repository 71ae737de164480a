"""The parts of the web page that need no browser, in Node: the model of a long list, addresses, figures in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.static_files import PAGE_DIR
from services.common.auth.key_ring import parse_key_ring
from services.common.auth.signed_links import Link, LinkSigner
from services.common.media import MediaName
from tests.support.page_program import run_page_program
from tests.support.tokens import SECRET

MODEL = """
import { FileModel } from "./file_model.js";
const all = Array.from({ length: 3000 }, (_, index) => ({
  id: String(index), folder: "", filename: `f${index}`, etag: "1", revision: 1,
  uploaded_at: new Date(9e12 - index * 1000).toISOString(),
}));
let requests = 0;
const files = {
  async list({ after, search = "", limit }) {
    requests++;
    const found = all.filter((file) => file.filename.includes(search));
    const from = Number(after ?? 0);
    return { files: found.slice(from, from + limit), next: from + limit < found.length ? String(from + limit) : null };
  },
};
const model = new FileModel(files, () => {});
const rest = () => new Promise((resolve) => setTimeout(resolve));
const now = new Date().toISOString();
const file = (filename, revision, more = {}) =>
  ({ id: "x", folder: "", filename, etag: "2", revision, uploaded_at: now, ...more });
const seen = {};
await model.open({});
seen.first = [model.length, model.complete];
model.apply({ type: "file.created", data: file("new", 1) }, true);
model.apply({ type: "file.created", data: file("new", 1) }, true);
seen.atTop = [model.at(0).filename, model.length];
model.apply({ type: "file.created", data: file("later", 1) }, false);
seen.pending = [model.pending.length, model.at(0).filename];
model.apply({ type: "file.replaced", data: file("f5", 2, { length: 7 }) }, false);
model.apply({ type: "file.replaced", data: file("f5", 1, { length: 8 }) }, false);
seen.replaced = [model.find("f5").length, model.indexOf("f5")];
model.apply({ type: "file.deleted", data: file("f6", 0) }, false);
seen.olderDeletion = model.indexOf("f6");
model.apply({ type: "file.deleted", data: file("f6", 2) }, false);
seen.deleted = [model.indexOf("f6"), model.at(6).filename, model.at(7).filename];
model.apply({ type: "file.moved", data: { ...file("g9", 3), id: "9" } }, false);
seen.moved = [model.indexOf("f9"), model.at(model.indexOf("g9")).revision, model.indexOf("g9")];
seen.requestsOfEvents = requests;
while (!model.complete) await model.more();
seen.all = model.length;
model.keepNear(model.length - 1);
seen.held = model.held < 1400;
seen.away = model.at(300) === undefined;
await rest();
seen.back = model.at(300).filename;
await model.open({ search: "f299" });
seen.search = [model.length, model.complete];
model.apply({ type: "file.created", data: file("other", 1) }, true);
seen.unmatched = model.length;
for (let index = 0; index < 600; index++) model.apply({ type: "file.created", data: file(`f299 ${index}`, 1) }, false);
seen.flood = [model.stale, model.pending.length < 500];
console.log(JSON.stringify(seen));
"""
ROUTES = """
import { fileOf, link, parse, pathOf } from "./router.js";
const names = [["", "a.txt"], ["a b/c", "100%?#&.mp4"], ["ä", "'é'"]];
const trips = names.map(([folder, filename]) => {
  const { query, folder: parsed } = parse(link("files", folder, { play: pathOf({ folder, filename }), t: null }));
  return [parsed, fileOf(query.get("play"))];
});
console.log(JSON.stringify({ trips, broken: parse("#/files/%E0%A4%A").folder, none: parse("").view }));
"""
WORDS = """
import { clock, rate, size, span, words } from "./format.js";
const statuses = [0, 401, 403, 404, 409, 412, 413, 429, 503, 507].map((status) => words({ status, message: "detail" }));
console.log(JSON.stringify({
  sizes: [0, 1023, 1024, 150 * 1024, 5e9].map(size), rate: rate(2048), clocks: [0, 59.6, 3723].map(clock),
  spans: [0, 89, 90, 7800, 200000].map(span), statuses,
}));
"""
NAMES = """
import { canRename, faultOf, partsOf } from "./upload_name.js";
const states = [
  ["waiting", 0, null], ["paused", 0, null], ["paused", 5, null], ["sending", 0, null], ["stored", 5, null],
  ["failed", 0, { status: 409 }], ["failed", 0, { status: 400 }], ["failed", 0, { status: 413 }], ["failed", 0, null],
];
console.log(JSON.stringify({
  states: states.map(([state, sent, error]) => canRename({ state, sent, error })),
  faults: ["", "a/b", "a\\\\b", "ä".repeat(128), "ä".repeat(127), "a b.txt"].map((name) => faultOf(name) !== ""),
  parts: ["a.tar.gz", ".env", "README", "a."].map(partsOf),
}));
"""
UPLOAD_LINKS = """
import { isTaken, linkWords, readLink } from "./upload_link.js";
import { readFileSync } from "node:fs";
const { put, get } = JSON.parse(readFileSync("given.json", "utf-8"));
const kinds = ["image/*"];
const errors = [[403, ""], [409, "the link was used already"], [409, "the file exists"], [415, ""], [413, "5 bytes"]];
console.log(JSON.stringify({
  put: readLink(put),
  none: [get, "", "v1", "v1.k.%%.x", "v1.k.bnVsbA.x"].map(readLink),
  types: [["image/png", []], ["image/png", kinds], ["imagery/x", kinds], ["IMAGE/PNG; a=b", ["image/png"]], ["", kinds]]
    .map(([type, types]) => isTaken(type, types)),
  texts: errors.map(([status, message]) => linkWords({ status, message }, () => "words of the page")),
}));
"""
WEBHOOKS = """
import { writeFileSync } from "node:fs";
writeFileSync("app.js", 'export const currentToken = () => "secret";');
class Fake {
  children = [];
  dataset = {};
  #text = "";
  get textContent() { return this.#text + this.children.map((child) => child.textContent ?? child).join("|"); }
  set textContent(text) { this.#text = text; }
  append(...more) { this.children.push(...more); }
  replaceChildren(...only) { this.children = only; }
  setAttribute(name, value) { this[name] = value; }
  removeAttribute(name) { delete this[name]; }
  getAttribute(name) { return this[name] ?? null; }
  addEventListener(name, listener) { this[`on${name}`] = listener; }
}
globalThis.document = { createElement: () => new Fake() };
const requests = [];
let status = 200;
globalThis.fetch = async (path, { method, headers, body }) => {
  requests.push([method, path, headers.authorization ?? null, body ?? null]);
  if (status !== 200) return new Response(JSON.stringify({ detail: "webhooks are off" }), { status });
  if (method === "POST") return new Response('{"replayed":1}');
  const endpoint = { id: "e", url: "https://a.example/<b>", ended: false, waiting: 2, oldest_seconds: 1.4, dead: 3 };
  const delivery = { id: "1.e", endpoint: "e", type: "file.created", status: null, error: "no answer", created_at: "now" };
  return new Response(JSON.stringify(path.includes("endpoints") ? [endpoint] : [delivery]));
};
const rest = () => new Promise((resolve) => setTimeout(resolve, 20));
const { WebhooksPanel } = await import("./webhooks_panel.js");
const panel = new WebhooksPanel();
const before = requests.length;
panel.element.open = true;
panel.element.ontoggle();
await rest();
const shown = [panel.endpoints.textContent, panel.dead.textContent, panel.result.textContent];
panel.dead.children[0].children[0].children.at(-1).onclick();
await rest();
status = 404;
panel.element.ontoggle();
await rest();
const sent = requests.filter(([method]) => method === "POST");
console.log(JSON.stringify({ before, shown, sent, off: [panel.result.textContent, panel.endpoints.textContent] }));
"""


def test_events_change_single_rows_and_cause_no_requests(tmp_path: Path) -> None:
    seen = run_page_program(tmp_path, MODEL)
    assert seen["first"] == [200, False]
    assert seen["atTop"] == ["new", 201], "an event that comes twice shows one file"
    assert seen["pending"] == [1, "new"], "away from the top it waits"
    assert seen["replaced"] == [7, 6], "an older revision shows nothing, and the row stays where it is"
    assert seen["olderDeletion"] == 7
    assert seen["deleted"] == [-1, "f5", "f7"]
    assert seen["moved"] == [-1, 3, 9], "the row keeps its place"
    assert seen["requestsOfEvents"] == 1
    assert seen["all"] == 3000
    assert seen["held"] is seen["away"] is True
    assert seen["back"] == "f300"
    assert seen["search"] == [11, True]
    assert seen["unmatched"] == 11
    assert seen["flood"] == [True, True]


def test_addresses_keep_names(tmp_path: Path) -> None:
    seen = run_page_program(tmp_path, ROUTES)
    assert seen["trips"] == [
        [folder, {"folder": folder, "filename": name}]
        for folder, name in (("", "a.txt"), ("a b/c", "100%?#&.mp4"), ("ä", "'é'"))
    ]
    assert (seen["broken"], seen["none"]) == ("", "files")


def test_figures_and_errors_are_in_words(tmp_path: Path) -> None:
    seen = run_page_program(tmp_path, WORDS)
    assert seen["sizes"] == ["0 B", "1023 B", "1.0 KiB", "150 KiB", "4.7 GiB"]
    assert (seen["rate"], seen["clocks"]) == ("2.0 KiB/s", ["0:00", "1:00", "1:02:03"])
    assert seen["spans"] == ["0 s", "89 s", "2 min", "2 h 10 min", "2 days"]
    assert all(text[0].isupper() and text.endswith(".") for text in seen["statuses"])
    assert len(set(seen["statuses"])) == len(seen["statuses"])


def test_names_can_be_changed_until_something_was_sent(tmp_path: Path) -> None:
    seen = run_page_program(tmp_path, NAMES)
    assert seen["states"] == [True, True, False, False, False, True, True, False, False]
    assert seen["faults"] == [True, True, True, True, False, False]
    assert seen["parts"] == [["a.tar", ".gz"], [".env", ""], ["README", ""], ["a", "."]]


def test_link_that_uploads_says_what_was_asked_for(tmp_path: Path) -> None:
    """It is read as the server writes it."""
    signer = LinkSigner(parse_key_ring(f"k1 {SECRET}"))
    name = MediaName("in/ä", "Bericht-é.pdf")
    link = Link("i", "put", name, 1e9, "alice", max_size=5, media_types=("application/pdf",))
    given = {"put": signer.sign(link), "get": signer.sign(replace(link, kind="get"))}
    seen = run_page_program(tmp_path, UPLOAD_LINKS, given)
    assert seen["put"] == {
        "folder": name.folder,
        "filename": name.filename,
        "ends": 1e9,
        "maxSize": 5,
        "types": ["application/pdf"],
    }
    assert seen["none"] == [None] * 5
    assert seen["types"] == [True, True, False, True, False]
    assert len(set(seen["texts"])) == 5
    assert seen["texts"][-1] == "words of the page"


def test_webhooks_are_shown_when_they_are_asked_for_and_sent_again(tmp_path: Path) -> None:
    seen = run_page_program(tmp_path, WEBHOOKS)
    assert seen["before"] == 0
    assert seen["shown"] == [
        "|e|https://a.example/<b> · 2 waiting, the oldest for 1 s · 3 dead|Send dead again",
        "|file.created|to e · no answer · now|Send again",
        "",
    ]
    assert seen["sent"] == [["POST", "/webhooks/replays", "Bearer secret", '{"id":"1.e"}']]
    assert seen["off"] == ["Webhooks are off.", ""]


@pytest.mark.parametrize("path", sorted(PAGE_DIR.glob("*.js")), ids=lambda path: path.name)
def test_modules_are_small_and_set_no_html(path: Path) -> None:
    source = path.read_text("utf-8")
    assert len(source.splitlines()) <= 400
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert forbidden not in source
