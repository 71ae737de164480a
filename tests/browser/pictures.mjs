// Takes the pictures of the page for docs/images, on a stack that is empty; docs/development.md has the commands.
//
// node pictures.mjs URL CHROMIUM FOLDER OUT. FOLDER is where the media for the pictures are made, by ffmpeg; OUT is where they go.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { chromium } from "playwright-core";

const [url, executablePath, folder, out] = process.argv.slice(2);
const ffmpeg = (...options) => execFileSync("ffmpeg", ["-loglevel", "error", "-y", ...options], { timeout: 60_000 });
const colours = (index) => `gradients=s=640x480:c0=${["0x0b6e69", "0x274c77", "0x8d5b4c", "0x355070", "0x6d597a", "0x386641"][index]}:c1=${["0xf4d58d", "0xe07a5f", "0xf2cc8f", "0xeaac8b", "0xe56b6f", "0xa7c957"][index]}:type=${["linear", "radial", "circular", "spiral", "linear", "radial"][index]}:seed=${index + 3}`;
const FILES = [
  ["films/mandelbrot.webm", "video/webm", () => ["-f", "lavfi", "-i", "mandelbrot=s=640x360:r=12:start_scale=2.5", "-t", "12", "-c:v", "libvpx", "-b:v", "600k"]],
  ["films/2026/dusk.webm", "video/webm", () => ["-f", "lavfi", "-i", "gradients=s=640x360:r=12:c0=0x1d3557:c1=0xf4a261:type=linear:speed=0.02:seed=9", "-t", "8", "-pix_fmt", "yuv420p", "-c:v", "libvpx", "-b:v", "400k"]],
  ["music/morning.mp3", "audio/mpeg", () => ["-f", "lavfi", "-i", "sine=330:d=20", "-c:a", "libmp3lame"]],
  ["reports/quarter.pdf", "application/pdf", null],
  ["notes.md", "text/markdown", null],
  ...[0, 1, 2, 3, 4, 5].map((index) => [`photos/2026/IMG_204${index}.jpg`, "image/jpeg", () => ["-f", "lavfi", "-i", colours(index), "-frames:v", "1"]]),
];

mkdirSync(folder, { recursive: true });
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const context = await browser.newContext({ viewport: { width: 1120, height: 752 }, colorScheme: "light", reducedMotion: "reduce" });
const page = await context.newPage();
const open = async (hash) => {
  await page.goto("about:blank");
  await page.goto(`${url}/${hash}`);
  await page.waitForSelector('html[data-connection="connected"]');
};
await open("#/files");
for (const [path, type, options] of FILES) {
  const made = join(folder, path.split("/").at(-1));
  if (options && !existsSync(made)) ffmpeg(...options(), made);
  const [name, ...above] = path.split("/").reverse();
  const buffer = options ? readFileSync(made) : Buffer.from(type === "application/pdf" ? "%PDF-1.4\n" : "# Notes\n");
  // By the page, so that videos have posters.
  await page.goto(`${url}/#/files/${above.reverse().join("/")}`);
  await page.setInputFiles("#chosen", { name, mimeType: type, buffer });
  await page.locator(".file-name", { hasText: name }).waitFor();
}
await page.locator(".file-name").first().waitFor();
await open("#/files");
await page.getByRole("button", { name: "Grid", exact: true }).click();
await page.waitForFunction((wanted) => [...document.querySelectorAll(".thumb img")].filter((one) => one.complete && one.naturalWidth).length >= wanted, 8); // six photos, two posters
// Loaded is not painted yet: pictures are decoded beside it.
await page.evaluate(() => Promise.all([...document.querySelectorAll(".thumb img")].map((one) => one.decode())));
await page.screenshot(); // the first one draws what it needs
await page.screenshot({ path: join(out, "page-files.png") });
await open("#/sockets");
const other = await (await browser.newContext()).newPage();
await other.goto(`${url}/#/sockets`);
await page.waitForFunction(() => document.querySelectorAll(".socket").length > 1);
await page.locator('[aria-labelledby="push-title"] select').selectOption("all");
await page.locator('[aria-labelledby="push-title"] .primary').click();
await page.locator(".receipt strong").waitFor();
await page.screenshot({ path: join(out, "page-sockets.png") });
await browser.close();
