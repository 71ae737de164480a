// What people do on the page, in Chromium: real drops, offline, reload, two windows, keyboard only, axe.
//
// node scenarios.mjs URL CHROMIUM FOLDER. FOLDER has the files to upload; names of scenarios are read from standard input. Prints what each
// has seen, or the error, as a line of JSON. The test judges it.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { launch, newPage, play, settled, visit } from "./chromium.mjs";

const [url, executablePath, folder] = process.argv.slice(2);
const axeSource = readFileSync("node_modules/axe-core/axe.min.js", "utf-8");
const MIB = 1024 * 1024;
const unlimited = { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: -1 };
const browser = await launch(executablePath, "--use-fake-device-for-media-stream");

/** A page in a context of its own, and what it complained of. */
async function open(hash = "#/files", options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  const page = await newPage(context);
  page.errors = [];
  page.lists = 0;
  page.on("pageerror", (error) => page.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && page.errors.push(`${message.text()} ${message.location().url}`));
  page.on("request", (request) => (page.lists += /\/file(\?|$)/.test(request.url()) ? 1 : 0));
  await visit(page, `${url}/${hash}`, () => (page.errors.length = page.lists = 0));
  await page.waitForSelector('html[data-connection="connected"]');
  return page;
}
const put = async (path, body = "text", type = "text/plain") => {
  const response = await fetch(`${url}/files/${path}`, { method: "PUT", body, headers: { "content-type": type } });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
};
/** Fetch until the answer is 200: waitForFunction takes the promise of an asynchronous function for true. */
const answered = async (address, deadline = Date.now() + 30_000) => {
  for (;;) {
    const response = await fetch(address);
    if (response.ok || Date.now() > deadline) return response;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
};
const info = async (query) => (await fetch(`${url}/file/info?${new URLSearchParams(query)}`)).json();
const row = (page, name) => page.locator(".file", { has: page.locator(`.file-name:text-is("${name}")`) });
const upload = (page, name) => page.locator(".upload", { hasText: name });
const text = (locator) => locator.textContent();

async function network(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Network.enable");
  return (state) => session.send("Network.emulateNetworkConditions", { ...unlimited, ...state });
}

/** A drop as the operating system sends it. */
async function drop(page, ...files) {
  const session = await page.context().newCDPSession(page);
  const at = { x: 500, y: 400, data: { items: [], files, dragOperationsMask: 1 } };
  await session.send("Input.dispatchDragEvent", { type: "dragEnter", ...at });
  const overlay = await page.locator(".drop").isVisible();
  await session.send("Input.dispatchDragEvent", { type: "dragOver", ...at });
  await session.send("Input.dispatchDragEvent", { type: "drop", ...at });
  return overlay;
}

const scenarios = {
  async drop() {
    const page = await open("#/files/dropped");
    const overlay = await drop(page, join(folder, "one.txt"), join(folder, "tree"));
    await page.waitForFunction(() => document.getElementById("uploads-title").textContent === "3 files uploaded");
    await row(page, "one.txt").waitFor();
    await page.locator(".folder", { hasText: "tree" }).click();
    await row(page, "two.txt").waitFor();
    const crumbs = await page.locator(".crumbs li").allTextContents();
    await page.locator(".folder", { hasText: "deep" }).click();
    await row(page, "three.txt").waitFor();
    const deep = await info({ folder: "dropped/tree/deep", filename: "three.txt" });
    await page.locator(".crumbs a", { hasText: "All files" }).click();
    return { overlay, crumbs, length: deep.length, errors: page.errors };
  },

  async paste() {
    const page = await open("#/files/pasted");
    await page.evaluate(() => {
      const clipboardData = new DataTransfer();
      clipboardData.items.add(new File(["picture"], "image.png", { type: "image/png" }));
      document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
    });
    await page.locator(".file-name").first().waitFor();
    return { name: await text(page.locator(".file-name").first()), errors: page.errors };
  },

  async queue() {
    const page = await open("#/files/queue");
    const limit = await network(page);
    await limit({ uploadThroughput: 1.5 * MIB }); // so slow that it goes on for as long as a busy machine needs to look at it
    await page.setInputFiles("#chosen", join(folder, "large.bin"));
    const item = upload(page, "large.bin");
    await page.waitForFunction(() => /of 12\.0 MiB · .*\/s · .*left/.test(document.querySelector(".upload-state").textContent));
    const sending = await text(item.locator(".upload-state"));
    await item.getByRole("button", { name: "Pause large.bin" }).click();
    const paused = await text(item.locator(".upload-state"));
    await item.getByRole("button", { name: "Resume large.bin" }).click();
    await limit({});
    await page.waitForFunction(() => /^Stored/.test(document.querySelector(".upload-state").textContent));
    // The same name again: nothing is stored twice, and the person chooses.
    await page.setInputFiles("#chosen", join(folder, "other", "large.bin"));
    await page.getByRole("button", { name: "Keep both" }).click();
    await row(page, "large (2).bin").waitFor();
    // Cancelled in the middle: the server forgets it.
    await limit({ uploadThroughput: 2 * MIB });
    await page.setInputFiles("#chosen", join(folder, "cancelled.bin"));
    await page.waitForFunction(() => /of 12\.0 MiB/.test(document.querySelector(".upload-state").textContent));
    await page.getByRole("button", { name: "Cancel cancelled.bin" }).click();
    const cancelled = await text(upload(page, "cancelled.bin").locator(".upload-state"));
    await page.waitForFunction(() => Object.keys(localStorage).filter((key) => key.startsWith("gridcast:upload:")).length === 0);
    return { sending, paused, cancelled, info: await info({ folder: "queue", filename: "large.bin" }), errors: page.errors.filter((error) => !/status of 409|net::ERR/.test(error)) };
  },

  async offline() {
    const page = await open("#/files/offline");
    const limit = await network(page);
    await limit({ uploadThroughput: 1.5 * MIB });
    await page.setInputFiles("#chosen", join(folder, "large.bin"));
    await page.waitForFunction(() => Number(document.querySelector(".bar").getAttribute("aria-valuenow")) > 20);
    // Not by setOffline, which has a session of its own: with it the page is told that it is offline, but the limit of this session stays
    // in force and requests go on. The upload then waits once, at random between 0 and 500 ms, which may be less than a frame.
    let attempts = 0;
    const isAttempt = (request) => request.method() === "HEAD" && request.failure()?.errorText === "net::ERR_INTERNET_DISCONNECTED";
    await Promise.all([page.waitForEvent("requestfailed", (request) => isAttempt(request) && ++attempts === 2), limit({ offline: true })]);
    await page.waitForFunction(() => /^Waits for the network/.test(document.querySelector(".upload-state").textContent));
    const chip = await text(page.locator(".connection"));
    await limit({});
    await page.waitForFunction(() => /^Stored/.test(document.querySelector(".upload-state").textContent), null, { timeout: 60_000 });
    return { chip, attempts, info: await info({ folder: "offline", filename: "large.bin" }) };
  },

  async reload() {
    const page = await open("#/files/reload");
    const limit = await network(page);
    await limit({ uploadThroughput: 1.5 * MIB });
    await page.setInputFiles("#chosen", join(folder, "large.bin"));
    await page.waitForFunction(() => Number(document.querySelector(".bar").getAttribute("aria-valuenow")) > 10);
    await page.getByRole("button", { name: "Pause large.bin" }).click();
    await page.getByRole("button", { name: "Resume large.bin" }).click();
    await page.waitForFunction(() => Number(document.querySelector(".bar").getAttribute("aria-valuenow")) > 25);
    await limit({ uploadThroughput: MIB / 16 });
    const asked = [];
    page.on("dialog", (dialog) => {
      asked.push(dialog.type());
      void dialog.accept();
    });
    await page.reload();
    const offer = upload(page, "large.bin");
    await offer.getByRole("button", { name: "Choose the file" }).waitFor();
    const offered = await text(offer);
    await offer.locator("input[type=file]").setInputFiles(join(folder, "cancelled.bin"));
    const wrong = await text(page.locator(".toast").last());
    // The page that was left has its lock for a moment.
    await page.evaluate(async () => {
      for (const { name } of (await navigator.locks.query()).held) await navigator.locks.request(name, { signal: AbortSignal.timeout(20_000) }, () => {});
    });
    const begun = Date.now();
    await offer.locator("input[type=file]").setInputFiles(join(folder, "large.bin"));
    await limit({});
    await page.waitForFunction(() => /^Stored/.test(document.querySelector(".upload-state")?.textContent), null, { timeout: 60_000 });
    return { asked, offered, wrong, seconds: (Date.now() - begun) / 1000, info: await info({ folder: "reload", filename: "large.bin" }) };
  },

  async windows() {
    for (let index = 0; index < 60; index++) await put(`windows/before%20${String(index).padStart(2, "0")}.txt`);
    const page = await open("#/files/windows");
    const other = await open("#/files/windows");
    await row(page, "before 59.txt").waitFor();
    await page.evaluate(() => scrollTo(0, 1900));
    await row(page, "before 30.txt").locator(".file-open").focus();
    await page.evaluate(() => scrollTo(0, 1400));
    await settled(page);
    const place = () => page.evaluate(() => ({ scroll: scrollY, focus: document.activeElement.closest(".file")?.dataset.path }));
    const before = await place();
    page.lists = other.lists = 0;
    for (let index = 0; index < 50; index++) await put(`windows/foreign%20${index}.txt`);
    await put("windows/before%2030.txt", "a longer text than before");
    await page.waitForFunction(() => document.querySelector(".fresh").textContent === "Show 50 new files");
    await page.waitForFunction(() => [...document.querySelectorAll(".file")].some((one) => one.dataset.path === "windows/before 30.txt" && one.querySelector(".file-size").textContent === "25 B"));
    const after = await place();
    await row(other, "foreign 49.txt").waitFor(); // at the top of the list they come by themselves
    const lists = [page.lists, other.lists];
    await fetch(`${url}/files/windows/foreign%2049.txt`, { method: "DELETE" });
    await row(other, "foreign 49.txt").waitFor({ state: "detached" });
    await page.locator(".fresh").click();
    await row(page, "foreign 48.txt").waitFor();
    return { before, after, lists, errors: [...page.errors, ...other.errors] };
  },

  async keyboard() {
    for (const name of ["key a.txt", "key b.txt", "key c.txt", "key d.txt"]) await put(`keyboard/${encodeURIComponent(name)}`, `text of ${name}`);
    const page = await open("#/files/keyboard");
    const { keyboard } = page;
    await row(page, "key d.txt").waitFor();
    for (let index = 0; index < 40 && !(await page.evaluate(() => document.activeElement.matches(".file-open"))); index++) await keyboard.press("Tab");
    const focused = () => page.evaluate(() => document.activeElement.closest(".file")?.dataset.path ?? document.activeElement.tagName);
    const first = await focused();
    await keyboard.press("ArrowDown");
    const second = await focused();
    await keyboard.press("Enter");
    await page.locator(".player .paper").waitFor();
    const shown = await text(page.locator(".player pre"));
    await keyboard.press("Escape");
    await page.waitForFunction(() => !document.querySelector(".player").open);
    const back = await focused();
    await keyboard.press("x");
    await keyboard.press("Shift+ArrowDown");
    const selected = await text(page.locator(".selection strong"));
    await keyboard.press("Delete");
    await page.locator("dialog[open]").waitFor();
    const question = await text(page.locator("dialog[open] h2"));
    await keyboard.press("Tab");
    await keyboard.press("Enter");
    await row(page, "key c.txt").waitFor({ state: "detached" });
    await row(page, "key b.txt").waitFor({ state: "detached" });
    const left = await page.locator(".file-name").allTextContents();
    await keyboard.press("/");
    await keyboard.type("key d.t");
    await page.waitForFunction(() => document.querySelectorAll(".file").length === 1);
    return { first, second, shown, back, selected, question, left, search: await page.evaluate(() => location.hash), errors: page.errors };
  },

  async search() {
    await put(encodeURI("search/Näyttö film.txt"));
    const page = await open();
    await page.getByRole("searchbox", { name: "Search all files" }).fill("näyttö");
    await row(page, "Näyttö film.txt").waitFor();
    const where = await text(row(page, "Näyttö film.txt").locator(".file-meta"));
    await page.getByRole("searchbox", { name: "Search all files" }).fill("nothing is named so");
    await page.locator(".empty").waitFor();
    const empty = await text(page.locator(".empty"));
    await page.getByRole("searchbox", { name: "Search all files" }).fill("");
    await page.getByRole("button", { name: "Grid", exact: true }).click();
    await page.locator(".files.grid .file").first().waitFor();
    await page.reload();
    await page.locator(".files.grid .file").first().waitFor();
    return { where, empty, errors: page.errors };
  },

  async player() {
    await put("player/1.webm", readFileSync(join(folder, "clip.webm")), "video/webm");
    await put("player/2.avi", "RIFF", "video/x-msvideo");
    await put("player/3.mp3", readFileSync(join(folder, "sound.mp3")), "audio/mpeg");
    await put("player/4.png", readFileSync(join(folder, "picture.png")), "image/png");
    await put("player/5.txt", "a text");
    await put("player/6.pdf", readFileSync(join(folder, "page.pdf")), "application/pdf");
    const page = await open(`#/files/player?play=${encodeURIComponent("player/1.webm")}&t=3`);
    await page.context().grantPermissions(["clipboard-read", "clipboard-write"]);
    await page.waitForFunction(() => document.querySelector(".stage video")?.currentTime >= 3);
    const paused = () => page.evaluate(() => document.querySelector(".stage video").paused);
    const before = await paused(); // whether a browser plays by itself is its choice
    await page.keyboard.press("k");
    const toggled = before !== (await paused());
    await page.keyboard.press(">");
    const speed = await page.evaluate(() => document.querySelector(".stage video").playbackRate);
    await page.getByRole("button", { name: "Copy a link to this time" }).click();
    await page.locator(".toast").waitFor();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    await page.locator(".stage video").focus();
    await page.keyboard.press("ArrowLeft");
    await page.waitForFunction(() => document.querySelector(".stage video").currentTime < 3);
    const pip = await page.getByRole("button", { name: "Picture in picture" }).isVisible();
    const seen = [];
    // The list has the newest first, so the file before is the one that was stored later.
    const steps = [["2.avi", ".stage .cannot"], ["3.mp3", ".stage audio"], ["4.png", ".stage img"], ["5.txt", ".stage pre"], ["6.pdf", ".stage iframe, .stage .cannot"]];
    for (const [name, selector] of steps) {
      await page.getByRole("button", { name: "Previous file" }).click();
      await page.waitForFunction((wanted) => document.getElementById("player-title").textContent === wanted, name);
      await page.locator(selector).first().waitFor();
      seen.push(name);
      if (name === "2.avi") seen.push(await text(page.locator(".stage strong")), await page.locator(".stage a").getAttribute("download"));
    }
    await page.locator(".player").getByRole("button", { name: "Close" }).click(); // a PDF that takes the focus takes the keys
    await page.waitForFunction(() => !location.hash.includes("play="));
    return { toggled, speed, copied, pip, seen, errors: page.errors };
  },

  async empty() {
    await put("empty/3.webm", readFileSync(join(folder, "clip.webm")), "video/webm"); // two are drawn at a time: the oldest comes last
    await put("empty/2.png", "", "image/png");
    await put("empty/1.webm", "", "video/webm");
    const page = await open("#/files/empty");
    const asked = [];
    page.on("request", (request) => /\/file\/(stream|poster)/.test(request.url()) && !request.url().includes("3.webm") && asked.push(request.url()));
    await page.getByRole("button", { name: "Grid", exact: true }).click();
    await row(page, "3.webm").locator(".thumb img").waitFor();
    await page.setInputFiles("#chosen", { name: "0.webm", mimeType: "video/webm", buffer: Buffer.alloc(0) });
    await row(page, "0.webm").locator(".file-open").click();
    const said = [];
    for (const name of ["0.webm", "1.webm", "2.png"]) {
      await page.waitForFunction((wanted) => document.getElementById("player-title").textContent === wanted, name);
      said.push(await text(page.locator(".stage .cannot strong")));
      await page.getByRole("button", { name: "Next file" }).click();
    }
    await page.waitForFunction(() => document.querySelector(".stage video")?.readyState > 0);
    return { said, asked, errors: page.errors };
  },

  async changes() {
    for (const name of ["m1.txt", "m2.txt", "m3.txt"]) await put(`changes/${name}`, "x".repeat(Number(name[1])));
    const page = await open("#/files/changes");
    const names = () => page.locator(".file-name").allTextContents();
    await row(page, "m1.txt").waitFor();
    // Delete two, and undo.
    await row(page, "m1.txt").locator(".check").click();
    await row(page, "m2.txt").locator(".check").click();
    await page.locator(".selection .danger").click();
    await page.locator("dialog[open] button.filled").click();
    await row(page, "m1.txt").waitFor({ state: "detached" });
    await row(page, "m2.txt").waitFor({ state: "detached" });
    const deleted = await names();
    await page.getByRole("button", { name: "Undo" }).click();
    await row(page, "m1.txt").waitFor();
    await row(page, "m2.txt").waitFor();
    // Rename, first to a name that is taken.
    await row(page, "m1.txt").getByRole("button", { name: "Details of" }).click();
    await page.getByRole("button", { name: "Move", exact: true }).click();
    const dialog = page.locator("dialog[open]", { has: page.locator("#move-title") });
    await dialog.getByLabel("Name").fill("m2.txt");
    await dialog.getByRole("button", { name: "Move" }).click();
    await dialog.locator(".notice:visible").waitFor();
    const taken = await text(dialog.locator(".notice"));
    await dialog.getByLabel("Name").fill("renamed.txt");
    await dialog.getByRole("button", { name: "Move" }).click();
    await page.waitForFunction(() => document.getElementById("details-title").textContent === "renamed.txt");
    await page.keyboard.press("Escape");
    await row(page, "renamed.txt").waitFor();
    await page.getByLabel("Order").selectOption("-size");
    await page.waitForFunction(() => document.querySelector(".file-name").textContent === "m3.txt");
    const sorted = await names();
    await page.getByLabel("Order").selectOption("-time");
    // A video that is uploaded here gets a poster.
    await page.setInputFiles("#chosen", join(folder, "clip.webm"));
    await row(page, "clip.webm").waitFor();
    const poster = await answered(`${url}/file/poster?folder=changes&filename=clip.webm`);
    await page.locator(".files .thumb[data-kind=video] img").waitFor();
    return { deleted, taken, sorted, poster: poster.headers.get("content-type"), errors: page.errors.filter((error) => !/status of 409/.test(error)) };
  },

  async folders() {
    const page = await open("#/files/folders");
    await page.getByRole("button", { name: "New folder" }).click();
    await page.locator("dialog[open]").getByLabel("Name").fill("new one");
    await page.getByRole("button", { name: "Open it" }).click();
    await page.waitForFunction(() => location.hash === "#/files/folders/new%20one");
    const empty = await text(page.locator(".empty strong"));
    await page.waitForFunction(() => /^Files of up to /.test(document.querySelector(".list-state p.small")?.textContent ?? ""));
    await page.setInputFiles("#chosen-folder", join(folder, "tree"));
    await page.waitForFunction(() => document.getElementById("uploads-title").textContent === "2 files uploaded");
    await page.locator(".folder", { hasText: "tree" }).click();
    await row(page, "two.txt").waitFor();
    const crumbs = await page.locator(".crumbs li").allTextContents();
    await page.locator(".upload-name", { hasText: "two.txt" }).click(); // what is stored can be opened
    await page.waitForFunction(() => document.querySelector(".player pre")?.textContent === "two");
    await page.keyboard.press("Escape");
    // Move two at once, and take it back.
    for (const name of ["a.txt", "b.txt", "c.txt"]) await put(`folders/from/${name}`, name);
    await page.goto(`${url}/#/files/folders/from`);
    await row(page, "a.txt").locator(".check").click();
    await row(page, "b.txt").locator(".check").click();
    await page.locator(".selection button", { hasText: "Move" }).click();
    await page.locator("dialog[open]").getByLabel("Folder").fill("folders/to");
    await page.locator("dialog[open] .primary").click();
    await row(page, "a.txt").waitFor({ state: "detached" });
    await row(page, "b.txt").waitFor({ state: "detached" });
    const moved = await text(page.locator(".toast span").last());
    const there = [await info({ folder: "folders/to", filename: "a.txt" }), await info({ folder: "folders/to", filename: "b.txt" })].map(({ length }) => length);
    await page.getByRole("button", { name: "Undo" }).click();
    await row(page, "a.txt").waitFor();
    await row(page, "b.txt").waitFor();
    return { empty, crumbs, moved, there, errors: page.errors };
  },

  async together() {
    const page = await open("#/files/together");
    const limit = await network(page);
    await limit({ uploadThroughput: 2 * MIB });
    await page.setInputFiles("#chosen", [join(folder, "large.bin"), join(folder, "cancelled.bin"), join(folder, "picture.png")]);
    await page.locator(".upload-picture").waitFor();
    await upload(page, "picture.png").locator(".upload-state", { hasText: "Stored" }).waitFor();
    await page.waitForFunction(() => /^1 of 3 files · \d+ % · .*\/s · .* left$/.test(document.querySelector(".uploads header p").textContent));
    const summary = await text(page.locator(".uploads header p"));
    await page.getByRole("button", { name: "Pause all" }).click();
    const title = await text(page.locator("#uploads-title"));
    await page.getByRole("button", { name: "Resume all" }).click();
    await page.waitForFunction(() => document.getElementById("uploads-title").textContent === "Uploading 2 files");
    await page.getByRole("button", { name: "Cancel all" }).click();
    await page.locator("dialog[open] button.filled").click();
    await page.waitForFunction(() => document.querySelectorAll('.upload[data-state="cancelled"]').length === 2);
    await limit({});
    await page.getByRole("button", { name: "Clear the finished uploads" }).click();
    // Names that are taken are answered together.
    for (const name of ["one.txt", "two.txt"]) await put(`together/${name}`, "other");
    const same = (...names) => page.setInputFiles("#chosen", names.map((name) => ({ name, mimeType: "text/plain", buffer: Buffer.from("mine") })));
    await same("one.txt", "two.txt");
    await page.getByRole("button", { name: "Skip all" }).waitFor();
    const asked = await text(page.locator("#uploads-title"));
    await page.getByRole("button", { name: "Keep all" }).click();
    await row(page, "one (2).txt").waitFor();
    await row(page, "two (2).txt").waitFor();
    // What is too large is refused before a byte is sent.
    await page.route("**/file/tus", (route) => (route.request().method() === "OPTIONS" ? route.fulfill({ status: 204, headers: { "tus-max-size": "3" } }) : route.continue()));
    await page.reload();
    await page.waitForSelector('html[data-connection="connected"]');
    await same("three.txt");
    const refused = await text(page.locator(".toast.error span"));
    return { summary, title, asked, refused, errors: page.errors.filter((error) => !/status of 409|net::ERR/.test(error)) };
  },

  async rename() {
    const page = await open("#/files/rename");
    const limit = await network(page);
    await limit({ uploadThroughput: 1 * MIB });
    await put("rename/taken.txt", "another");
    const small = (name) => ({ name, mimeType: "text/plain", buffer: Buffer.from(`text of ${name}`) });
    await page.setInputFiles("#chosen", ["large.bin", "cancelled.bin", "progress.bin"].map((name) => join(folder, name)));
    await page.setInputFiles("#chosen", [small("first.txt"), small("second.txt"), small("taken.txt")]);
    const names = () => page.locator(".upload-name").allTextContents();
    // With keys alone; what has begun has no such button.
    await page.getByRole("button", { name: "Rename first.txt" }).focus();
    await page.keyboard.press("Enter");
    const marked = await page.evaluate(() => getSelection().toString());
    await page.keyboard.type("a/b");
    await page.keyboard.press("Enter");
    const fault = await page.evaluate(() => document.activeElement.validationMessage);
    await page.keyboard.press("Escape");
    const left = await names();
    await page.keyboard.press("F2");
    await page.keyboard.type("renamed");
    await page.keyboard.press("Enter");
    const renamed = await names();
    const begun = await page.getByRole("button", { name: "Rename large.bin" }).count();
    await page.getByRole("button", { name: "Cancel all" }).waitFor();
    for (const name of ["large.bin", "cancelled.bin", "progress.bin"]) await page.getByRole("button", { name: `Cancel ${name}`, exact: true }).click();
    await limit({});
    // A taken name offers it.
    const item = upload(page, "is already there");
    await item.getByRole("button", { name: "Rename", exact: true }).click();
    await page.getByLabel("New name of taken.txt").fill("free.txt");
    await page.keyboard.press("Enter");
    for (const name of ["renamed.txt", "second.txt", "free.txt"]) await row(page, name).waitFor();
    const stored = await (await fetch(`${url}/files/rename/renamed.txt`)).text();
    return { marked, fault, left, renamed, begun, stored, errors: page.errors.filter((error) => !/status of 409|net::ERR/.test(error)) };
  },

  async camera() {
    const page = await open("#/files/camera");
    const { keyboard } = page;
    await page.getByRole("button", { name: "Use the camera" }).click();
    const dialog = page.locator("dialog.camera");
    await dialog.locator(".notice:visible").waitFor(); // without an answer Chromium refuses
    const denied = await text(dialog.locator(".notice"));
    await page.context().grantPermissions(["camera", "microphone"]);
    await dialog.getByRole("button", { name: "Try again" }).click();
    await dialog.getByRole("button", { name: "Take a picture" }).click();
    await page.waitForFunction(() => document.querySelector(".camera-made img")?.naturalWidth > 0);
    await dialog.getByRole("button", { name: "Try again" }).click(); // that one was nothing
    await dialog.getByRole("button", { name: "Take a picture" }).click();
    await page.waitForFunction(() => document.activeElement.textContent === "Upload it");
    await keyboard.press("Enter"); // the focus is on what is most likely wanted
    const picture = page.locator(".file-name", { hasText: /^Picture 20.*\.jpg$/ });
    await picture.waitFor();
    await page.getByRole("button", { name: "Use the camera" }).click();
    await dialog.getByRole("button", { name: "Record a clip" }).click();
    await page.waitForFunction(() => document.querySelector(".camera-time").textContent.startsWith("0:02"));
    await keyboard.press("Escape"); // ends the clip, and not the dialog
    await page.waitForFunction(() => document.querySelector(".camera-made video")?.readyState > 0);
    await dialog.getByRole("button", { name: "Upload it" }).click();
    const clip = page.locator(".file-name", { hasText: /^Clip 20.*\.(mp4|webm)$/ });
    await clip.waitFor();
    const files = [];
    for (const name of [await text(picture), await text(clip)]) files.push(await info({ folder: "camera", filename: name }));
    return { denied, files: files.map(({ content_type, length }) => [content_type, length > 1000]), open: await dialog.count(), errors: page.errors };
  },

  async nocamera() {
    const page = await open("#/files/camera");
    const shown = page.getByRole("button", { name: "Use the camera" });
    await shown.waitFor();
    await page.evaluate(() => {
      navigator.mediaDevices.enumerateDevices = async () => [{ kind: "audioinput" }];
      navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
    });
    await shown.waitFor({ state: "hidden" });
    return { errors: page.errors };
  },

  async details() {
    await put("details/it's%20here.txt", "a text");
    const page = await open("#/files/details");
    await row(page, "it's here.txt").getByRole("button", { name: "Details of" }).click();
    await page.locator(".details code").first().waitFor();
    const codes = await page.locator(".details code").allTextContents();
    const known = await info({ folder: "details", filename: "it's here.txt" });
    return { codes, sha256: known.sha256, etag: known.etag, errors: page.errors };
  },

  async sockets() {
    const page = await open("#/sockets");
    const other = await open("#/sockets");
    const sid = await text(page.locator(".own .sid"));
    await page.locator(".socket .you:visible").waitFor();
    const replica = await text(page.locator(".socket", { has: page.locator(".you:visible") }).locator("p.soft"));
    let pushes = 0;
    other.on("request", (request) => (pushes += request.method() === "POST" && request.url().includes("/messages") ? 1 : 0));
    await other.getByLabel("Socket (sid)").fill(sid);
    await other.getByLabel(/ack/).check();
    await other.locator("form .primary").dblclick();
    await other.locator(".receipt strong").waitFor();
    const receipt = await text(other.locator(".receipt strong"));
    await other.locator("form .primary:enabled").waitFor();
    const once = pushes;
    // Events of other tests may come in between.
    const chats = page.locator(".feed-list li", { has: page.locator("strong", { hasText: "chat.message" }) });
    await chats.first().locator("summary").click();
    await chats.first().locator("pre", { hasText: "Hello" }).waitFor(); // written when the entry is opened
    const json = await text(chats.first().locator("pre"));
    await other.locator("form select").selectOption("all");
    await other.locator("form .primary").click();
    await page.locator('.chips [data-type="chat.message"] b', { hasText: "2" }).waitFor();
    await page.locator('.chips [data-type="chat.message"]').click();
    await chats.first().waitFor({ state: "detached" });
    const filtered = await chats.count();
    await page.locator('.chips [data-type="chat.message"]').click();
    await chats.nth(1).waitFor();
    await page.getByRole("button", { name: "Pause" }).click();
    await other.locator("form .primary").click();
    await page.locator('.chips [data-type="chat.message"] b', { hasText: "3" }).waitFor();
    const whilePaused = await chats.count();
    await page.getByRole("button", { name: "Go on" }).click();
    await chats.nth(2).waitFor();
    // Progress of an upload is one line, however many events it has.
    const limit = await network(page);
    await limit({ uploadThroughput: 8 * MIB });
    await page.setInputFiles("#chosen", join(folder, "progress.bin"));
    await page.locator(".feed-list strong", { hasText: "file.progress" }).waitFor();
    await limit({});
    await page.locator(".feed-list li", { hasText: "file.created" }).filter({ hasText: "progress.bin" }).first().waitFor();
    const progress = await page.locator(".feed-list li", { hasText: "file.progress" }).filter({ hasText: "progress.bin" }).count();
    // Close the other one.
    const theirs = await text(other.locator(".own .sid"));
    await page.locator(".socket", { has: page.locator(`code[title="${theirs}"]`) }).getByRole("button", { name: /^Disconnect/ }).click();
    await page.locator("dialog[open] button", { hasText: "Disconnect" }).click();
    await other.waitForFunction((before) => ![before, "not connected"].includes(document.querySelector(".own .sid").textContent), theirs, { timeout: 30_000 });
    return { sid, replica, pushes: once, receipt, json, filtered, whilePaused, progress, errors: page.errors };
  },

  async operations() {
    const page = await open("#/operations");
    await page.waitForFunction(() => /replicas are ready/.test(document.querySelector(".overall").textContent));
    await page.waitForFunction(() => /\/s$/.test(document.querySelector(".tile dd").textContent), null, { timeout: 10_000 });
    const services = await page.locator(".services h2").allTextContents();
    return { overall: await text(page.locator(".overall")), services, figures: await page.locator(".figures dt").allTextContents(), errors: page.errors };
  },

  async errors() {
    const page = await open("#/files/errors");
    await page.route("**/file?*", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: '{"detail":"away"}' }));
    await page.route("**/status", (route) => route.fulfill({ status: 403, contentType: "application/problem+json", body: '{"detail":"insufficient_scope"}' }));
    await page.reload();
    await page.locator(".list-state .notice").waitFor({ timeout: 30_000 });
    const list = await text(page.locator(".list-state .notice"));
    await page.unroute("**/file?*");
    await page.getByRole("button", { name: "Try again" }).click();
    await page.locator(".empty").waitFor();
    await page.goto(`${url}/#/operations`);
    await page.locator(".notice").waitFor();
    return { list, operations: await text(page.locator(".notice")) };
  },

  async token() {
    const page = await open();
    await page.getByRole("button", { name: "Token: none" }).click();
    const claims = btoa(JSON.stringify({ sub: "alice", exp: Math.floor(Date.now() / 1000) + 3600, scope: "read:demo/*" })).replace(/[=]/g, "").replace(/[+]/g, "-").replace(/[/]/g, "_");
    await page.locator("#token-field").fill(`e30.${claims}.x`);
    const state = await text(page.locator("#token-state"));
    const sent = page.waitForRequest((request) => request.headers().authorization?.startsWith("Bearer e30."));
    await page.getByRole("button", { name: "Use it" }).click();
    await sent;
    await page.getByRole("button", { name: "Token: set" }).waitFor();
    const stored = await page.evaluate(() => sessionStorage.length);
    await page.getByRole("button", { name: "Token: set" }).click();
    await page.getByLabel(/^Keep it/).check();
    await page.getByRole("button", { name: "Use it" }).click();
    await page.reload();
    await page.getByRole("button", { name: "Token: set" }).waitFor();
    return { state, stored };
  },

  async themes() {
    const page = await open();
    const colour = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
    const light = await colour();
    await page.getByRole("button", { name: "Dark colours" }).click();
    const dark = await colour();
    await page.reload();
    await page.waitForSelector('html[data-connection="connected"]');
    const kept = await colour();
    const widths = {};
    for (const view of ["files", "sockets", "operations"]) {
      await page.setViewportSize({ width: 360, height: 700 });
      await page.goto(`${url}/#/${view}`);
      await page.locator({ files: ".file-open, .empty", sockets: ".socket", operations: ".replicas li" }[view]).first().waitFor();
      await settled(page);
      widths[view] = await page.evaluate(() => document.documentElement.scrollWidth);
    }
    return { light, dark, kept, widths };
  },

  async axe() {
    await put("axe/one.txt");
    await put("axe/deep/two.txt");
    const found = [];
    let rules = 0;
    for (const [colorScheme, width] of [["light", 360], ["dark", 1280]]) {
      {
        const page = await open("#/files", { colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
        const judge = async (what) => {
          await settled(page);
          if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axeSource); // views share a document
          const { violations, passes } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations", "passes"] }));
          rules = Math.max(rules, passes.length);
          for (const { id, impact, nodes } of violations) if (impact !== "minor") found.push(`${what} ${colorScheme} ${width}: ${id} (${impact}) ${nodes[0].html.slice(0, 160)} ${nodes[0].failureSummary?.slice(0, 200)}`);
        };
        await page.locator(".file").first().waitFor();
        await judge("list");
        await page.getByRole("button", { name: "Grid", exact: true }).click();
        await judge("grid");
        await page.setInputFiles("#chosen", { name: `axe ${colorScheme} ${width}.txt`, mimeType: "text/plain", buffer: Buffer.from("x") });
        await page.locator(".upload").waitFor();
        await page.locator(".check").first().click({ force: true });
        await judge("uploads and selection");
        await page.goto(`${url}/#/files/axe?info=axe/one.txt`);
        await page.locator(".details code").first().waitFor();
        await judge("details");
        await page.locator(".details-acts").getByRole("button", { name: "Share" }).click();
        await page.locator("#share-title").waitFor();
        await judge("share");
        await page.keyboard.press("Escape");
        await page.getByRole("button", { name: "Move", exact: true }).last().click();
        await page.locator("#move-title").waitFor();
        await judge("move");
        await page.keyboard.press("Escape");
        await page.goto(`${url}/#/files/axe?play=axe/one.txt`);
        await page.locator(".stage pre").waitFor();
        await judge("player");
        await page.keyboard.press("Escape");
        await page.goto(`${url}/#/sockets`);
        await page.locator(".socket").first().waitFor();
        await judge("sockets");
        await page.goto(`${url}/#/operations`);
        await page.locator(".replicas li").first().waitFor();
        await judge("operations");
        await page.locator(".token-button").click();
        await judge("token");
        await page.keyboard.press("Escape");
        await page.goto(`${url}/#/files/axe`);
        await page.getByRole("button", { name: "Use the camera" }).click();
        await page.locator("dialog.camera .notice:visible").waitFor();
        await judge("camera");
        await page.keyboard.press("Escape");
        await page.goto(`${url}/#/send?link=v1.k.${btoa(JSON.stringify({ k: "put", d: "", n: "a.txt", e: 4e9 }))}.x`);
        await page.locator(".send-card button:visible").waitFor();
        await page.setInputFiles("#chosen", join(folder, "one.txt"));
        await page.getByRole("button", { name: "Send it" }).waitFor();
        await judge("send");
        await page.context().close();
      }
    }
    return { found, rules };
  },

  async many() {
    // 10,000 files in 200 folders, as the server would list them.
    const all = Array.from({ length: 10_000 }, (_, index) => ({ id: String(index), folder: `f${index % 200}`, filename: `file ${index}.txt`, length: index, content_type: "text/plain", sha256: null, etag: `"${index}"`, uploaded_at: new Date(Date.UTC(2026, 0, 1) - index * 1000).toISOString(), metadata: {}, media_facts: null, revision: 1 }));
    const page = await open();
    await page.route(/\/file\?/, async (route) => {
      const query = new URL(route.request().url()).searchParams;
      const found = all.filter((file) => file.filename.includes(query.get("q") ?? ""));
      const from = Number(query.get("after") ?? 0);
      const next = from + 200 < found.length ? String(from + 200) : null;
      await route.fulfill({ json: { files: found.slice(from, from + 200), next } });
    });
    await page.route(/\/file\/folders/, (route) => route.fulfill({ json: { folders: Array.from({ length: 200 }, (_, index) => `f${index}`), next: null } }));
    await page.reload();
    await page.locator(".file-name").first().waitFor();
    const first = await page.evaluate(() => performance.now());
    const search = page.getByRole("searchbox", { name: "Search all files" });
    await search.focus();
    await page.evaluate(() => {
      window.slow = [];
      new PerformanceObserver((list) => window.slow.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "event", durationThreshold: 16 });
      window.keys = [];
      addEventListener("keydown", () => {
        const begun = performance.now();
        requestAnimationFrame(() => setTimeout(() => window.keys.push(performance.now() - begun)));
      }, true);
    });
    await page.keyboard.type("file 99", { delay: 120 });
    await page.locator(".file-name", { hasText: "file 99.txt" }).waitFor();
    const keys = await page.evaluate(() => window.keys);
    await search.fill("");
    await page.locator(".file-name", { hasText: "file 0.txt" }).waitFor();
    let most = 0;
    let bottom = "";
    for (const end = Date.now() + 45_000; bottom !== "file 9999.txt" && Date.now() < end; ) {
      await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
      await settled(page);
      most = Math.max(most, await page.locator(".file").count());
      bottom = await page.locator(".file-name").last().textContent();
    }
    await page.evaluate(() => scrollTo(0, 0));
    await page.locator(".file-name", { hasText: "file 0.txt" }).waitFor();
    await page.evaluate(() => scrollTo(0, 64 * 5000));
    await page.locator(".file-name", { hasText: "file 5001.txt" }).waitFor();
    const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
    return { first, keys, most, bottom, nodes, errors: page.errors };
  },
};

await play(browser, scenarios);
