// Uploads of @gridcast/client in Chromium, on the page of the gateway: pause, reload, resume; offline in mid-upload; two windows.
//
// node browser.mjs URL CHROMIUM FILE. Prints one JSON object with what was seen; the test judges it.
import { launch } from "./chromium.mjs";

const [url, executablePath, file] = process.argv.slice(2);
const RATE = 8 * 1024 * 1024; // bytes per second: slow enough to be in the middle of an upload
const errors = [];
const browser = await launch(executablePath);
const context = await browser.newContext();
const page = await context.newPage();
page.on("pageerror", (error) => errors.push(String(error)));
const network = await context.newCDPSession(page);
await network.send("Network.enable");
const limit = (uploadThroughput, offline = false) =>
  network.send("Network.emulateNetworkConditions", { offline, latency: 0, downloadThroughput: -1, uploadThroughput });

/** Choose the file, and add it with the client that the page serves. */
async function add(target, folder) {
  await target.evaluate(() => {
    const input = Object.assign(document.createElement("input"), { type: "file", id: "own" });
    if (!document.getElementById("own")) document.body.append(input);
  });
  await target.setInputFiles("#own", file);
  await target.evaluate(async (into) => {
    const { Gridcast } = await import("/client/index.js");
    window.client = new Gridcast();
    window.seen = [];
    window.upload = window.client.uploads.add(document.getElementById("own").files[0], { folder: into });
    window.upload.onChange((snapshot) => window.seen.push({ ...snapshot, error: snapshot.error?.message ?? null }));
  }, folder);
}
const until = (target, condition, value) => target.waitForFunction(condition, value, { timeout: 60_000, polling: 20 });
const seen = (target) => target.evaluate(() => window.seen);
const state = (target, wanted) => until(target, (name) => window.upload.state === name, wanted);
const sent = (target, bytes) => until(target, (count) => window.upload.snapshot.sent >= count, bytes);

const found = {};

await page.goto(url);
await limit(RATE);
await add(page, "reload");
await sent(page, 6 * 1024 * 1024);
await page.evaluate(() => window.upload.pause());
found.paused = await page.evaluate(() => window.upload.snapshot);
found.progress = (await seen(page)).filter(({ state: one }) => one === "sending").length;
await page.evaluate(() => window.upload.resume());
await sent(page, 10 * 1024 * 1024);
await page.evaluate(() => window.upload.pause());
await page.reload();
await page.evaluate(async () => {
  const { Gridcast } = await import("/client/index.js");
  window.unfinished = await new Gridcast().uploads.unfinished();
});
found.unfinished = await page.evaluate(() => window.unfinished);
await add(page, "reload");
await limit(-1);
await state(page, "stored");
found.reloaded = await seen(page);

await limit(RATE);
await add(page, "offline");
await sent(page, 4 * 1024 * 1024);
await context.setOffline(true);
await state(page, "retrying");
found.offlineError = await page.evaluate(() => window.upload.error.message);
await context.setOffline(false);
const online = Date.now();
await state(page, "stored");
found.offlineSeconds = (Date.now() - online) / 1000;
found.offline = await seen(page);

// A second window with the same file: the first one goes on, the second one says why it does not.
await limit(RATE);
await add(page, "windows");
await sent(page, 1024 * 1024);
const other = await context.newPage();
await other.goto(url);
await add(other, "windows");
await state(other, "failed");
found.otherError = await other.evaluate(() => window.upload.error.message);
await limit(-1);
await state(page, "stored");

// The queue of the page itself.
await other.goto(`${url}/#/files/form`);
await other.reload();
await other.setInputFiles("#chosen", file);
await other.waitForFunction(() => document.querySelector(".upload-state")?.textContent.startsWith("Stored in form"), null, { timeout: 60_000 });
await other.goto(`${url}/#/sockets`);
await other.waitForFunction(() => document.querySelector(".feed-list")?.textContent.includes("file.progress"), null, { timeout: 20_000 });

found.errors = errors;
console.log(JSON.stringify(found));
await browser.close();
