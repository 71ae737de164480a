// The page with a token, in Chromium: what plays, shows and downloads goes by signed links.
//
// node links.mjs URL CHROMIUM FOLDER TOKEN READER. READER is a token without the right `link`. Prints one JSON object.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, executablePath, folder, token, reader] = process.argv.slice(2);
const authorization = { authorization: `Bearer ${token}` };
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"] });
const put = async (path, type) => {
  const response = await fetch(`${url}/files/links/${path}`, { method: "PUT", body: readFileSync(join(folder, path)), headers: { "content-type": type, ...authorization } });
  if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
};

/** A page that has the token, as after a reload of a window that keeps it. */
async function open(hash, used = token) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await context.addInitScript((kept) => sessionStorage?.setItem("gridcast:token", kept), used);
  const page = await context.newPage();
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
await page.keyboard.press("Escape");
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
