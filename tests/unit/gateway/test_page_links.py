"""The links that the web page uses for what it plays, and those that it makes for others, in Node with a clock of the test."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.static_files import PAGE_DIR
from tests.support.programs import require_program

PRELUDE = """
import { LinkCache } from "./link_cache.js";
import { Shares } from "./shares.js";
let now = 0;
const timers = new Map();
let number = 0;
globalThis.setTimeout = (work, wait) => (timers.set(++number, { work, at: now + wait }), number);
globalThis.clearTimeout = (id) => timers.delete(id);
const rest = () => new Promise((resolve) => setImmediate(resolve));
/** Let time pass: timers run at their time, and promises between them. */
const pass = async (milliseconds) => {
  const end = now + milliseconds;
  for (;;) {
    const [id, timer] = [...timers].sort(([, one], [, other]) => one.at - other.at)[0] ?? [];
    if (!timer || timer.at > end) break;
    timers.delete(id);
    now = timer.at;
    timer.work();
    await rest();
  }
  now = end;
  await rest();
};
let made = 0;
const requests = [];
const links = {
  life: 100,
  refuse: () => null,
  async make(wanted) {
    requests.push(["make", wanted.length]);
    const error = wanted.map(this.refuse).find(Boolean);
    if (error) throw error;
    return wanted.map((one) => {
      const text = `v1.${++made}`;
      const [life, expires_at] = [this.life, now / 1000 + this.life];
      return { ...one, id: String(made), life, expires_at, link: text, url: `/files/${one.filename}?link=${text}` };
    });
  },
  async prolong(link) {
    requests.push(["prolong", link.id, now]);
    if (this.away) throw Object.assign(new Error("away"), { status: 503 });
    return { ...link, life: this.life };
  },
  async revoke({ id }) {
    requests.push(["revoke", id]);
    if (id === "unknown") throw Object.assign(new Error("link not found"), { status: 404 });
    if (this.away) throw Object.assign(new Error("away"), { status: 503 });
  },
  address: ({ url }) => `http://a${url}`,
};
const file = (filename, folder = "") => ({ folder, filename });
const seen = {};
"""
CACHE = """
const cache = new LinkCache(links, () => now);
const many = Array.from({ length: 250 }, (_, index) => cache.get(`f${index}`, file(`f${index}`)));
many.push(cache.get("f1", file("f1")));
await pass(20);
const all = await Promise.all(many);
seen.batches = requests.splice(0);
seen.same = all[1].id === all[250].id;
seen.follow = all[0].follow;
await pass(40_000);
seen.used = (await cache.get("f1", file("f1"))).id === all[1].id && requests.length === 0;
await pass(20_000);
seen.peek = cache.peek("f1") === undefined;
const again = cache.get("f1", file("f1"));
await pass(20);
seen.renewed = (await again).id !== all[1].id;
requests.length = 0;
const refusal = Object.assign(new Error("insufficient_scope"), { status: 403 });
links.refuse = ({ folder }) => (folder === "secret" ? refusal : null);
const mixed = [["a", "open"], ["b", "secret"], ["c", "open"]].map(([name, folder]) => cache.get(name, file(name, folder)));
const outcomes = mixed.map((one) => one.then(() => "made", ({ status }) => status));
await pass(20);
seen.mixed = await Promise.all(outcomes);
seen.mixedRequests = requests.splice(0);
cache.clear();
seen.cleared = cache.peek("a") === undefined;
for (let index = 0; index < 700; index++) cache.get(`g${index}`, file(`g${index}`)).catch(() => {});
await pass(20);
seen.bounded = cache.peek("g0") === undefined && cache.peek("g699") !== undefined;
"""
KEEP = """
const cache = new LinkCache(links, () => now);
const getting = cache.get("clip", file("clip"));
await pass(20);
const link = await getting;
await pass(30_000);
const stop = cache.keep("clip", link); // 70 s of its life are left
requests.length = 0;
await pass(330_000);
seen.prolonged = requests.splice(0).map(([what, id, at]) => [what, id, Math.round((at - 15) / 1000)]);
links.away = true;
await pass(60_000);
seen.tries = requests.splice(0).length;
links.away = false;
await pass(20_000);
seen.recovered = requests.splice(0).length;
stop();
await pass(500_000);
seen.stopped = requests.length + timers.size;
"""
SHARES = """
const kept = new Map();
const storage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, value) => kept.set(key, value) };
const clock = () => now / 1000;
const shares = new Shares(links, storage, clock);
const one = await shares.make(file("one", "demo"), 100, false);
const two = await shares.make(file("two"), 100, true);
seen.newest = shares.all.map(({ filename, address }) => [filename, address]);
seen.credential = [...kept.values()].some((value) => value.includes("v1."));
const reloaded = new Shares(links, storage, clock);
seen.reloaded = reloaded.all.map(({ id, folder, filename, address }) => [id, folder, filename, address]);
links.away = true;
seen.failed = await shares.revoke(one).then(() => "revoked", ({ status }) => [status, shares.all.length]);
links.away = false;
await shares.revoke(one);
seen.left = shares.all.map(({ filename }) => filename);
kept.set("gridcast:shares", JSON.stringify([{ id: "unknown", folder: "", filename: "x", expires_at: 1e9 }]));
const foreign = new Shares(links, storage, clock);
await foreign.revoke({ id: "unknown" });
seen.foreign = foreign.all.length;
const page = ({ link }) => `http://a/#/send?link=${link}`;
const asked = await shares.ask(file("report.pdf", "in"), 100, { maxSize: 5 }, page);
const kinds = new Shares(links, storage, clock).all.map(({ kind }) => kind);
seen.asked = [asked.kind, asked.address.startsWith("http://a/#/send?link="), kinds];
await pass(101_000);
seen.ended = shares.all.length;
kept.set("gridcast:shares", "{broken");
seen.broken = new Shares(links, storage, clock).all;
"""


def run(folder: Path, program: str) -> Any:
    """Run a program with the modules and return what it has seen."""
    for name in ("link_cache.js", "shares.js"):
        shutil.copy(PAGE_DIR / name, folder)
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "program.js").write_text(f"{PRELUDE}{program}\nconsole.log(JSON.stringify(seen));\n", "utf-8")
    command = [require_program("node", "nodejs"), "program.js"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_links_are_made_many_at_once_and_used_for_half_of_their_life(tmp_path: Path) -> None:
    seen = run(tmp_path, CACHE)
    assert seen["batches"] == [["make", 100], ["make", 100], ["make", 50]]
    for fact in ("same", "follow", "used", "peek", "renewed", "cleared", "bounded"):
        assert seen[fact] is True, fact
    assert seen["mixed"] == ["made", 403, "made"], "what one folder refuses, the others do not pay for"
    assert seen["mixedRequests"] == [["make", 3], ["make", 2], ["make", 1]]


def test_a_link_that_plays_is_prolonged_before_it_ends(tmp_path: Path) -> None:
    seen = run(tmp_path, KEEP)
    assert [one[2] for one in seen["prolonged"]] == [50, 100, 150, 200, 250, 300, 350]
    assert {one[1] for one in seen["prolonged"]} == {"1"}
    assert 2 <= seen["tries"] <= 8, "tried again while it lives, with pauses"
    assert seen["recovered"] >= 1
    assert seen["stopped"] == 0


def test_shares_of_a_window_are_kept_without_their_credentials(tmp_path: Path) -> None:
    seen = run(tmp_path, SHARES)
    assert seen["newest"] == [["two", "http://a/files/two?link=v1.2"], ["one", "http://a/files/one?link=v1.1"]]
    assert seen["credential"] is False
    assert seen["reloaded"] == [["2", "", "two", None], ["1", "demo", "one", None]]
    assert seen["failed"] == [503, 2]
    assert seen["left"] == ["two"]
    assert seen["asked"] == ["put", True, ["put", "get"]]
    assert (seen["foreign"], seen["ended"], seen["broken"]) == (0, 0, [])


@pytest.mark.parametrize("name", ["link_cache.js", "shares.js"])
def test_modules_touch_no_element(name: str) -> None:
    assert "document" not in (PAGE_DIR / name).read_text("utf-8")
