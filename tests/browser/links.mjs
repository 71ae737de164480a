// The page with a token, in Chromium: what plays, shows and downloads goes by signed links.
//
// node links.mjs URL CHROMIUM FOLDER TOKEN READER. READER is a token without the right `link`. Prints one JSON object.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { launch, newPage } from "./chromium.mjs";

const [url, executablePath, folder, token, reader] = process.argv.slice(2);
const authorization = { authorization: `Bearer ${token}` };
const browser = await launch(executablePath, "--autoplay-policy=no-user-gesture-required", "--use-fake-device-for-media-stream");
const put = async (path, type) => {
  const response = await fetch(`${url}/files/links/${path}`, { method: "PUT", body: readFileSync(join(folder, path)), headers: { "content-type": type, ...authorization } });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
};

/** A page that has the token, as after a reload of a window that keeps it. */
async function open(hash, used = token) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await context.addInitScript((kept) => sessionStorage?.setItem("gridcast:token", kept), used);
  const page = await newPage(context);
  page.errors = [];
  page.requests = [];
  page.on("pageerror", (error) => page.errors.push(String(error)));
  page.on("console", (message) => message.type() === "error" && page.errors.push(message.text()));
  page.on("request", (request) => page.requests.push(`${request.method()} ${new URL(request.url()).pathname}`));
  await page.goto(`${url}/${hash}`);
  await page.waitForSelector('html[data-connection="connected"]');
  return page;
}
const row = (page, name) => page.locator(".file", { has: page.locator(`.file-name:text-is("${name}")`) });
const seen = {};

const uploading = await open("#/files/links");
await uploading.setInputFiles("#chosen", [join(folder, "clip.webm"), join(folder, "song.mp3")]);
for (const name of ["clip.webm", "song.mp3"]) await row(uploading, name).locator(".thumb img").waitFor();
seen.posters = await uploading.locator(".thumb img").evaluateAll((images) => images.map(({ src }) => new URL(src)).map(({ pathname, searchParams }) => [pathname, searchParams.has("link")]));
await uploading.getByRole("button", { name: "Share clip.webm" }).click();
seen.offered = await uploading.locator("#share-title").textContent();
await put("other.mp3", "audio/mpeg");
await put("other.flac", "audio/flac");
await put("other.m4a", "audio/mp4");
await put("picture.png", "image/png");
await put("sheet.pdf", "application/pdf");

// Covers of files that came another way, and pictures: links for all with few requests.
const page = await open("#/files/links");
for (const name of ["other.mp3", "other.flac", "other.m4a", "picture.png"]) await row(page, name).locator(".thumb img").waitFor();
seen.linkRequests = page.requests.filter((one) => one === "POST /file/link").length;

// Play for longer than a link lives.
await page.goto(`${url}/#/files/links?play=${encodeURIComponent("links/clip.webm")}`);
await page.waitForFunction(() => document.querySelector(".stage video")?.currentTime > 0.2);
await page.evaluate(() => {
  const media = document.querySelector(".stage video");
  window.jumps = [];
  for (const name of ["emptied", "error", "loadstart", "seeking"]) media.addEventListener(name, () => window.jumps.push(name));
});
const address = await page.evaluate(() => document.querySelector(".stage video").currentSrc);
const first = Date.now();
await page.waitForFunction(() => document.querySelector(".stage video").currentTime > 7, null, { timeout: 40_000 });
seen.played = (Date.now() - first) / 1000;
seen.jumps = await page.evaluate(() => window.jumps);
seen.same = (await page.evaluate(() => document.querySelector(".stage video").currentSrc)) === address;
seen.status = (await fetch(address, { headers: { range: "bytes=0-9" } })).status;
seen.prolonged = page.requests.filter((one) => one.startsWith("PATCH /file/link/")).length;
seen.address = new URL(address).pathname;

// The cover in the player, a PDF, a download, a new tab.
await page.goto(`${url}/#/files/links?play=${encodeURIComponent("links/other.mp3")}`);
await page.waitForFunction(() => document.querySelector(".sound-picture img")?.naturalWidth > 100);
await page.goto(`${url}/#/files/links?play=${encodeURIComponent("links/sheet.pdf")}`);
await page.locator(".stage iframe, .stage .cannot").first().waitFor();
const downloading = page.waitForEvent("download");
await page.locator(".player-tools a[download]").click();
seen.download = (await downloading).suggestedFilename();
await page.locator(".player").getByRole("button", { name: "Close" }).click(); // a PDF that takes the focus takes the keys
await row(page, "picture.png").getByRole("button", { name: "Details of" }).click();
const tab = page.getByRole("link", { name: "New tab" });
await tab.hover();
await page.waitForFunction(() => document.querySelector('.details-acts a[target="_blank"]').href.includes("link="));
const opening = page.context().waitForEvent("page");
await tab.click();
const opened = await opening;
await opened.waitForLoadState();
seen.tab = await opened.evaluate(() => [document.contentType, location.pathname]);
await opened.close();

// Share, use it without a token, revoke.
await page.getByRole("button", { name: "Share" }).click();
await page.locator("#share-title").waitFor();
await page.getByLabel("Valid for").selectOption("3600");
await page.getByRole("button", { name: "Make a link" }).click();
await page.locator(".share-line input").waitFor();
const shared = await page.locator(".share-line input").inputValue();
await page.locator(".toast").first().waitFor();
seen.copied = (await page.evaluate(() => navigator.clipboard.readText())) === shared;
seen.shared = (await fetch(shared)).status;
seen.listed = await page.locator(".share-name").allTextContents();
await page.reload();
await page.getByRole("button", { name: "Share" }).click();
await page.getByRole("button", { name: "Revoke the link to picture.png" }).click();
await page.locator(".shares").waitFor({ state: "hidden" });
let revoked = 200;
for (const end = Date.now() + 10_000; revoked === 200 && Date.now() < end; ) revoked = (await fetch(shared)).status;
seen.revoked = revoked;
seen.errors = page.errors;

// Ask for a file; someone without a token sends it, once.
const asking = await open("#/files/asked");
await asking.getByRole("button", { name: "Ask for a file" }).click();
await asking.getByLabel("Name of the file").fill("report.pdf");
await asking.getByLabel("Largest size in MiB").fill("1");
await asking.getByLabel("Type").selectOption("application/pdf");
await asking.getByRole("button", { name: "Make a link" }).click();
const linkLine = asking.locator(".share-line input");
await linkLine.waitFor();
const invitation = await linkLine.inputValue();
await asking.getByLabel("Name of the file").fill("other.pdf");
await asking.getByRole("button", { name: "Make a link" }).click();
await asking.locator(".share-name", { hasText: "other.pdf" }).waitFor();
const second = await linkLine.inputValue();
await asking.getByRole("button", { name: "Revoke the link to other.pdf" }).click();
await asking.locator(".share-name", { hasText: "other.pdf" }).waitFor({ state: "detached" });

/** The page of a guest. */
async function visit(address) {
  const guest = await (await browser.newContext({ viewport: { width: 360, height: 740 } })).newPage();
  guest.paths = [];
  guest.errors = [];
  guest.on("pageerror", (error) => guest.errors.push(String(error)));
  guest.on("console", (message) => message.type() === "error" && guest.errors.push(message.text()));
  guest.on("request", (request) => guest.paths.push(new URL(request.url()).pathname));
  await guest.goto(address);
  await guest.locator(".send-card button:visible").waitFor();
  return guest;
}
/** A drop as the operating system sends it. */
async function dropOn(guest, ...files) {
  const session = await guest.context().newCDPSession(guest);
  const at = { x: 100, y: 300, data: { items: [], files, dragOperationsMask: 1 } };
  for (const type of ["dragEnter", "dragOver", "drop"]) await session.send("Input.dispatchDragEvent", { type, ...at });
}
const guest = await visit(invitation);
seen.asked = await guest.locator(".send").textContent();
seen.tabs = await guest.locator(".tabs").isVisible();
seen.wide = await guest.evaluate(() => document.documentElement.scrollWidth > innerWidth);
await dropOn(guest, join(folder, "picture.png"));
seen.wrongType = await guest.locator(".toast.error span").textContent();
await dropOn(guest, join(folder, "sheet.pdf"));
await guest.getByRole("button", { name: "Send it" }).click();
await guest.locator(".send-card[data-state=stored]").waitFor();
seen.sent = await guest.locator(".send-state").textContent();
seen.guestPaths = [...new Set(guest.paths.filter((path) => !/^\/($|page\/|client\/)/.test(path)).map((path) => path.replace(/tus\/.+/, "tus/ID")))].sort();
seen.guestErrors = guest.errors;
await row(asking, "report.pdf").waitFor();
// All four buttons fit a small screen.
await asking.keyboard.press("Escape");
await asking.getByRole("button", { name: "Use the camera" }).waitFor();
await asking.setViewportSize({ width: 360, height: 740 });
seen.narrow = await asking.evaluate(() => document.documentElement.scrollWidth);
for (const [name, address] of [["again", invitation], ["ended", second]]) {
  const late = await visit(address);
  await late.setInputFiles("#chosen", join(folder, "sheet.pdf"));
  await late.getByRole("button", { name: "Send it" }).click();
  await late.locator(".send-card[data-state=failed]").waitFor();
  seen[name] = await late.locator(".send-state").textContent();
}
await guest.goto(`${url}/#/send?link=v1.x`);
await guest.reload();
await guest.locator(".send-card").waitFor({ state: "hidden" });
seen.broken = await guest.locator(".send .soft").first().textContent();
const report = await fetch(`${url}/file/info?folder=asked&filename=report.pdf`, { headers: authorization });
seen.owner = (await report.json()).owner;

// Without the right to make links the page says what is missing.
const limited = await open(`#/files/links?play=${encodeURIComponent("links/clip.webm")}`, reader);
await limited.locator(".stage .cannot").waitFor();
seen.refused = await limited.locator(".stage .cannot").textContent();
await limited.keyboard.press("Escape");
await row(limited, "picture.png").getByRole("button", { name: "Details of" }).click();
await limited.getByRole("button", { name: "Share" }).click();
await limited.getByRole("button", { name: "Make a link" }).click();
seen.unshared = await limited.locator("dialog .notice:visible").textContent();
console.log(JSON.stringify(seen));
await browser.close();
