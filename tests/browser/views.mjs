// Every view of the page with 0, 3 and 300 files, at 360, 800 and 1280 pixels: what is clipped, covered, or wider than the screen.
//
// node views.mjs URL CHROMIUM FOLDER THEMES [PICTURES]. FOLDER has clip.webm, sound.mp3 and picture.png; THEMES are separated by commas.
// Prints one JSON object; with PICTURES each view is photographed into that folder, to be looked at by people.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { launch, newPage, settled, visit } from "./chromium.mjs";

const [url, executablePath, folder, themes, pictures] = process.argv.slice(2);
const WIDTHS = [[1280, 800], [800, 900], [360, 740]].map(([width, height]) => ({ width, height }));
const COUNTS = [0, 3, 300];
const media = { video: ["clip.webm", "video/webm"], audio: ["sound.mp3", "audio/mpeg"], image: ["picture.png", "image/png"] };
const browser = await launch(executablePath, "--use-fake-device-for-media-stream");
const picture = readFileSync(join(folder, "picture.png"));

const NAMES = [
  ["Interview with the lighthouse keeper, second take, uncut and with the sound of the sea.webm", "video/webm", { kind: "video", duration: 3723, width: 1920, height: 1080 }],
  ["Morning song.mp3", "audio/mpeg", { kind: "audio", duration: 187, tags: { title: "Morning song", artist: "The Testers" } }],
  ["IMG_20260712_184233.png", "image/png", { kind: "image", width: 4032, height: 3024 }],
  ["notes.txt", "text/plain", null],
  ["Angebot-Straßenbahnbetriebsgesellschaftsversammlung-2026-endgültige-Fassung.pdf", "application/pdf", null],
  ["archive.tar.zst", "application/zstd", null],
  ["a.mp4", "video/mp4", { kind: "video", duration: 8, width: 320, height: 180 }],
];
const list = (count) =>
  Array.from({ length: count }, (_, index) => {
    const [name, content_type, media_facts] = NAMES[index % NAMES.length];
    const filename = index < NAMES.length ? name : name.replace(/(\.\w+)+$/, ` ${index}$&`);
    const poster = index % 7 === 0 ? '"p"' : null;
    return { id: String(index), folder: index % 3 ? "" : "holiday/2026/northern coast", filename, content_type, media_facts, poster, length: [1.2e9, 4.1e6, 3.3e6, 812, 73e3, 5.5e10, 0][index % 7], sha256: "9f".repeat(32), etag: `"${index}"`, uploaded_at: new Date(Date.UTC(2026, 10, 28) - index * 7e6).toISOString(), metadata: {}, revision: 1, owner: null };
  });
const folders = (count) => (count === 0 ? [] : count === 3 ? ["holiday", "a folder with a name that is rather long"] : Array.from({ length: 30 }, (_, index) => `project ${index}/part`));
const sockets = (count) =>
  Array.from({ length: count }, (_, index) => ({ sid: "s".repeat(40) + String(index).padStart(12, "0"), state: index % 4 ? "online" : "away", replica: "127.0.0.1:50123", since: 1795822000, left: index % 4 ? null : 1795822100, topics: ["news", "a/topic/with/a/long/name/of/some/kind"].slice(index % 3), meta: { page: "Gridcast", user: `person ${index}` } }));

/** What is wrong with what is on the screen. */
function inspect() {
  const found = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) {
    const wide = [...document.querySelectorAll("body *")].find((one) => one.getBoundingClientRect().right > innerWidth + 1 && getComputedStyle(one).position !== "fixed");
    found.push(`wider than the screen: ${root.scrollWidth} ${wide?.className}`);
  }
  const host = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  const isShown = (one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest(".sr, .skip") && one.getClientRects().length > 0;
  const name = (one) => `${one.tagName.toLowerCase()}.${one.className} “${(one.getAttribute("aria-label") ?? one.textContent).trim().slice(0, 40)}”`;
  for (const one of host.querySelectorAll("button, .button, a, h1, h2, h3, label, dt, dd, th, td, .chip, p, strong")) {
    if (!isShown(one) || one.scrollWidth <= one.clientWidth + 1 || !one.clientWidth) continue;
    const { textOverflow, overflowX } = getComputedStyle(one);
    const cut = [one, ...one.querySelectorAll("*")].some((part) => getComputedStyle(part).textOverflow === "ellipsis");
    if (textOverflow !== "ellipsis" && !cut && overflowX !== "auto") found.push(`clipped: ${name(one)} ${one.scrollWidth} in ${one.clientWidth}`);
  }
  for (const one of host.querySelectorAll("button, a, input, select, textarea")) {
    if (!isShown(one) || one.disabled) continue;
    const box = one.closest(".uploads, .card, .file, .selection, dialog")?.getBoundingClientRect();
    if (box && one.getBoundingClientRect().right > box.right + 1) found.push(`beyond its box: ${name(one)}`);
    const { left, top, width, height } = one.getBoundingClientRect();
    const [x, y] = [left + width / 2, top + height / 2];
    if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) continue;
    const top_ = document.elementFromPoint(x, y);
    if (top_ && !one.contains(top_) && !top_.contains(one) && !top_.closest("label")?.contains(one) && !top_.closest(".topbar, .tabs, .uploads, .selection, #toasts")) found.push(`covered: ${name(one)} by ${name(top_)}`);
  }
  const small = [...host.querySelectorAll("button, a.button, .icon-button, select")].filter((one) => isShown(one) && one.getBoundingClientRect().height < 24);
  for (const one of small) if (!one.matches(".link-button, .chips *")) found.push(`lower than 24 pixels: ${name(one)}`);
  return found;
}

const found = [];
let views = 0;
for (const theme of themes.split(",")) {
  const context = await browser.newContext({ viewport: WIDTHS.at(-1), colorScheme: theme, reducedMotion: "reduce", permissions: ["clipboard-write"] });
  const page = await newPage(context);
  page.on("pageerror", (error) => found.push(`${theme}: ${error}`));
  let count = 300;
  await page.route(/\/file\?/, (route) => route.fulfill({ json: { files: list(count).slice(0, 200), next: null } }));
  await page.route(/\/file\/folders/, (route) => route.fulfill({ json: { folders: folders(count), next: null } }));
  await page.route(/\/file\/info/, (route) => route.fulfill({ json: list(300).find(({ filename }) => filename === new URL(route.request().url()).searchParams.get("filename")) ?? list(1)[0] }));
  await page.route(/\/file\/poster/, (route) => route.fulfill({ body: picture, contentType: "image/png" }));
  await page.route(/\/file\/stream/, (route) => {
    const wanted = new URL(route.request().url()).searchParams.get("filename");
    const { content_type } = list(300).find(({ filename }) => filename === wanted);
    const [name, type] = media[content_type.split("/")[0]] ?? [];
    return name ? route.fulfill({ path: join(folder, name), contentType: type }) : route.fulfill({ body: "A text.\n".repeat(400), contentType: "text/plain" });
  });
  await page.route(/\/sockets\?/, (route) => route.fulfill({ json: { sockets: sockets(count), next: null } }));
  // To load the page takes longer than to look at it: most views follow one another within it, as people go from one to the next.
  const load = async (hash) => {
    await page.goto("about:blank");
    await visit(page, `${url}/${hash}`);
    await page.waitForSelector('html[data-connection="connected"]');
  };
  const show = async (hash) => {
    await page.evaluate((next) => (location.hash = next), hash);
    await page.evaluate(() => scrollTo(0, 0));
  };
  // To navigate to a view takes longer than to check it, so it is checked in all widths. The narrowest is the last, and stays set.
  const look = async (name, { sizes = WIDTHS, atEnd = false } = {}) => {
    for (const size of sizes) {
      await page.setViewportSize(size);
      if (atEnd) await page.evaluate(() => scrollTo(0, document.documentElement.scrollHeight));
      await settled(page);
      views++;
      for (const one of await page.evaluate(inspect)) found.push(`${name} ${theme} ${size.width}: ${one}`);
      if (pictures) await page.screenshot({ path: join(pictures, `${name}-${theme}-${size.width}.png`) });
    }
  };
  const close = async () => {
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => !document.querySelector("dialog[open]"));
  };
  for (count of COUNTS) {
    for (const size of WIDTHS) {
      const sizes = [size]; // how many folders are shown is decided when they are
      await page.setViewportSize(size);
      await load("#/files");
      for (const layout of ["List", "Grid"]) {
        await page.getByRole("button", { name: layout, exact: true }).click();
        await page.locator(count ? ".file-open" : ".empty").first().waitFor();
        if (layout === "Grid" || count) await look(`${layout.toLowerCase()}-${count}`, { sizes });
        if (layout === "List" && count === 0) await look("list-0", { sizes });
      }
      await show("#/sockets");
      await page.locator(count ? ".socket" : ".sockets-grid").first().waitFor();
      await look(`sockets-${count}`, { sizes });
    }
  }
  await load("#/files/holiday/2026?q=nothing");
  await page.locator(".file-open").first().waitFor();
  await look("search");
  await show("#/operations");
  await page.locator(".replicas li").first().waitFor();
  await page.waitForFunction(() => /\/s$/.test(document.querySelector(".tile dd").textContent), null, { timeout: 10_000 });
  await look("operations");
  await look("operations-end", { atEnd: true });
  await page.locator(".token-button").click();
  await look("token");
  await close();
  await page.keyboard.press("?");
  await page.locator("#keys-title").waitFor();
  await look("keys");
  await load("#/files");
  await page.getByRole("button", { name: "List", exact: true }).click();
  for (const index of [0, 2, 3]) await page.locator(".check").nth(index).click({ force: true });
  await look("selection");
  await page.locator(".selection button", { hasText: "Move" }).click();
  await look("move");
  await close();
  await page.locator(".selection .danger").click();
  await look("delete");
  await close();
  for (const [index, kind] of [[0, "video"], [1, "audio"], [2, "image"], [3, "text"], [5, "cannot"]]) {
    await show(`#/files?play=${encodeURIComponent([list(7)[index].folder, list(7)[index].filename].filter(Boolean).join("/"))}`);
    await page.locator({ video: ".stage video", audio: ".stage audio", image: ".stage img", text: ".stage pre", cannot: ".stage .cannot" }[kind]).waitFor();
    await look(`player-${kind}`);
  }
  await close();
  await show(`#/files?info=${encodeURIComponent(`holiday/2026/northern coast/${list(1)[0].filename}`)}`);
  await page.locator(".details code").first().waitFor();
  await look("details");
  await page.getByRole("button", { name: "Share" }).click();
  await look("share");
  await page.evaluate(() => sessionStorage.setItem("gridcast:token", "e30.e30.x"));
  await page.route(/\/file\/link$/, (route) => {
    const links = route.request().postDataJSON().links.map((one, index) => ({ ...one, id: String(index), kind: "get", expires_at: Date.now() / 1000 + 86_400, link: "v1.x", url: `/file/stream?filename=${encodeURIComponent(one.filename)}&link=v1.${"x".repeat(200)}` }));
    return route.fulfill({ json: { links } });
  });
  await page.reload();
  await page.locator(".details code").first().waitFor();
  await page.getByRole("button", { name: "Share" }).click();
  for (let time = 1; time <= 2; time++) {
    await page.getByRole("button", { name: "Make a link" }).click();
    await page.locator(".shares li").nth(time - 1).waitFor();
  }
  await look("shared");
  await page.evaluate(() => sessionStorage.clear());
  await load("#/files");
  await page.route(/\/file\/tus/, (route) => (route.request().method() === "POST" ? route.fulfill({ status: 409, contentType: "application/problem+json", body: '{"detail":"taken"}' }) : route.continue()));
  await page.setInputFiles("#chosen", [{ name: "picture.png", mimeType: "image/png", buffer: picture }, ...["sound.mp3", "a name that is long enough to be cut off in the small card.txt"].map((name) => ({ name, mimeType: "text/plain", buffer: Buffer.from("x") }))]);
  await page.locator(".upload", { hasText: "already there" }).nth(2).waitFor();
  await look("uploads");
  await context.close();
}
console.log(JSON.stringify({ found, views }));
await browser.close();
