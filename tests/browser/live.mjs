// Live streams on the page, in Chromium: a canvas draws a counter as a bar code, MediaRecorder records it, and a second window reads it
// back from our own player, live, from the start, and from the file.
//
// node live.mjs URL CHROMIUM SAMPLE. SAMPLE is a fragmented MP4 to publish, whose picture pauses from 6 s to 14 s, whose bars are those of
// its time, and whose sound is of 400 Hz and 50 Hz more for each second. Names of scenarios are read from standard input. Prints what each
// has seen, or the error, as a line of JSON. The test judges it.
import { readFileSync } from "node:fs";
import { launch, newPage, play, settled, visit } from "./chromium.mjs";

const [url, executablePath, sample] = process.argv.slice(2);
const axeSource = readFileSync("node_modules/axe-core/axe.min.js", "utf-8");
const media = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required"];
const browser = await launch(executablePath, ...media);
const SECOND = 1000;

/** The camera is a canvas: 16 bars for the tenths of a second since it was opened, the highest bit at the left. The sound is the fake's. */
function drawCamera() {
  const { mediaDevices } = navigator;
  const real = mediaDevices.getUserMedia.bind(mediaDevices);
  mediaDevices.getUserMedia = async ({ audio }) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 180 });
    const context = canvas.getContext("2d");
    const begun = performance.now();
    const draw = () => {
      const count = Math.floor((performance.now() - begun) / 100);
      for (let bit = 0; bit < 16; bit++) {
        context.fillStyle = count & (1 << (15 - bit)) ? "#fff" : "#000";
        context.fillRect(bit * 20, 0, 20, 180);
      }
    };
    setInterval(draw, 50);
    draw();
    const stream = canvas.captureStream(20);
    if (audio) for (const track of (await real({ audio: true })).getAudioTracks()) stream.addTrack(track);
    return stream;
  };
  const Recorder = window.MediaRecorder;
  window.MediaRecorder = class extends Recorder {
    constructor(...values) {
      super(...values);
      window.recorder = this;
    }
  };
}

/** In a page: what the bars of a video say, in seconds. */
function barsOf(video) {
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 180 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(video, 0, 0, 320, 180);
  let count = 0;
  for (let bit = 0; bit < 16; bit++) count = count * 2 + (context.getImageData(bit * 20 + 10, 90, 1, 1).data[0] > 127 ? 1 : 0);
  return count / 10;
}

/** What the bars of the video of a page say, in seconds, and where it plays. */
const readBars = (page, selector) =>
  page.evaluate((name) => {
    const video = document.querySelector(name);
    return { counted: barsOf(video), time: video.currentTime };
  }, selector);

/** From now on keep in `places` of the page, ten times a second: where it plays, and what the bars and the pitch of the sound say, in seconds. */
function keepPlaces(name) {
  const video = document.querySelector(name);
  const context = new AudioContext();
  const analyser = new AnalyserNode(context, { fftSize: 8192, smoothingTimeConstant: 0 });
  context.createMediaElementSource(video).connect(analyser).connect(context.destination);
  const levels = new Float32Array(analyser.frequencyBinCount);
  window.places = [];
  setInterval(() => {
    if (video.readyState < video.HAVE_FUTURE_DATA || video.seeking) return;
    analyser.getFloatFrequencyData(levels);
    const loudest = levels.reduce((best, level, bin) => (level > levels[best] ? bin : best), 0);
    const hertz = (loudest * context.sampleRate) / analyser.fftSize;
    window.places.push({ time: video.currentTime, counted: barsOf(video), heard: levels[loudest] > -60 ? (hertz - 400) / 50 : null });
  }, 100);
}

async function open(hash, { init, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ["camera", "microphone"], ...options });
  const page = await newPage(context);
  page.errors = [];
  page.requested = [];
  page.on("pageerror", (error) => page.errors.push(String(error)));
  // A list is 404 until it is long enough to be one.
  page.on("console", (message) => message.type() === "error" && !new URL(message.location().url || "about:blank").pathname.endsWith("/index.m3u8") && page.errors.push(message.text()));
  page.on("request", (request) => page.requested.push(new URL(request.url()).pathname));
  await page.addInitScript(`globalThis.barsOf = ${barsOf}`);
  for (const script of [init].flat().filter(Boolean)) await page.addInitScript(script);
  await visit(page, `${url}/${hash}`, () => (page.errors.length = page.requested.length = 0));
  await page.waitForSelector('html[data-connection="connected"]');
  return page;
}
/** A browser that has no HLS of its own. */
const withoutNative = () => {
  const real = HTMLMediaElement.prototype.canPlayType;
  HTMLMediaElement.prototype.canPlayType = function (type) {
    return /mpegurl/i.test(type) ? "" : real.call(this, type);
  };
};
const watchVideo = ".live-player video";
const plays = (page) => page.waitForFunction((name) => document.querySelector(name)?.readyState >= 3 && document.querySelector(name).currentTime > 0, watchVideo, { timeout: 30 * SECOND });
const textOf = (page, selector) => page.locator(selector).innerText();

/** Start a live from the camera, and return its page and its id. */
async function start(name, options = {}) {
  const page = await open("#/live", { init: drawCamera, ...options });
  await page.getByRole("button", { name: "Go live" }).click();
  await page.getByRole("button", { name: "Camera" }).click();
  await page.getByLabel("Name").fill(name);
  await page.getByLabel("Folder").fill("shows");
  await page.locator(".studio .button.primary:enabled").click();
  await page.locator(".studio-air:visible").waitFor();
  const row = page.locator(".live-row", { hasText: name.replace(".mp4", "") });
  await row.waitFor();
  return { page, id: await row.getAttribute("data-id") };
}
const listOf = async (id) => (await fetch(`${url}/live/${id}/media.m3u8`)).text();
const stateOf = async (id) => (await fetch(`${url}/live/${id}`)).json();

async function end(page) {
  await page.getByRole("button", { name: "End the live" }).click();
  await page.locator("dialog[open] button.filled").click();
  await page.locator(".toast", { hasText: "is a file now" }).waitFor({ timeout: 30 * SECOND });
}

/** Publish the sample by tus, each fragment of a second when a recorder would have it. */
async function publishSample({ tus, publish_token: token }) {
  const bytes = readFileSync(sample);
  const ends = []; // of fragments, where the next one begins
  for (let at = 0; at < bytes.length; at += bytes.readUInt32BE(at)) if (bytes.toString("latin1", at + 4, at + 8) === "moof") ends.push(at);
  ends.shift(); // what is in front of the first one is sent with it
  const begun = Date.now();
  let offset = 0;
  for (const [number, end] of [...ends, bytes.length].entries()) {
    await new Promise((resolve) => setTimeout(resolve, begun + (number + 1) * SECOND - Date.now()));
    const headers = { authorization: `Bearer ${token}`, "tus-resumable": "1.0.0", "content-type": "application/offset+octet-stream", "upload-offset": String(offset) };
    const answer = await fetch(`${url}${tus}`, { method: "PATCH", headers, body: bytes.subarray(offset, end) });
    if (answer.status !== 204) throw new Error(`${answer.status} ${await answer.text()}`);
    offset = end;
  }
}

const scenarios = {
  /** A picture that pauses while the sound goes on: watched live, and by who has gone into the pause. */
  async pause() {
    const headers = { "content-type": "application/json" };
    const made = await (await fetch(`${url}/live`, { method: "POST", headers, body: JSON.stringify({ folder: "shows", filename: "pause.mp4" }) })).json();
    const watching = await open(`#/live/${made.id}`, { init: withoutNative });
    await watching.locator(watchVideo).waitFor({ state: "attached" });
    await watching.evaluate(keepPlaces, watchVideo);
    const plays_ = (seconds) => watching.waitForFunction(([name, time]) => document.querySelector(name).currentTime > time && document.querySelector(name).readyState >= 3, [watchVideo, seconds], { timeout: 30 * SECOND });
    await publishSample(made);
    await plays_(16);
    const after = await readBars(watching, watchVideo);
    const live = await watching.evaluate(() => window.places);
    await watching.getByLabel("Place in the stream").fill("10");
    await watching.evaluate(() => void (window.places.length = 0)); // those before it
    await plays_(17);
    const sought = await watching.evaluate(() => window.places);
    await fetch(`${url}/live/${made.id}/end`, { method: "POST" });
    await watching.locator(".watch-head .chip", { hasText: "Ended" }).waitFor();
    return { live, after, sought, ended: await stateOf(made.id), list: await listOf(made.id), errors: watching.errors };
  },

  /** Live, rewound while live, back at the edge, over a lost network, ended, and as a file. */
  async stream() {
    const { page, id } = await start("stream.mp4");
    const watching = await open(`#/live/${id}`, { init: withoutNative });
    await plays(watching);
    const live = await readBars(watching, watchVideo);
    await watching.locator(".watch-head .chip", { hasText: "1 viewer" }).waitFor({ timeout: 30 * SECOND });
    // Back to the start, which it never loaded.
    await watching.getByRole("button", { name: "Back to the start" }).click();
    await watching.waitForFunction((name) => document.querySelector(name).currentTime < 2 && document.querySelector(name).readyState >= 3, watchVideo);
    const start_ = await readBars(watching, watchVideo);
    const stateAtStart = await stateOf(id);
    const lists = { live: await listOf(id) };
    // It stays there until the edge has moved on.
    await watching.evaluate((name) => document.querySelector(name).pause(), watchVideo);
    await watching.locator('.live-button[data-live="false"]').waitFor();
    const behind = await textOf(watching, ".live-button");
    // The sender loses its network: what it records waits, and follows.
    await page.context().setOffline(true);
    await page.locator(".studio-line .chip", { hasText: "Connection lost" }).waitFor({ timeout: 30 * SECOND });
    const lost = await textOf(page, ".studio-air .notice");
    await page.context().setOffline(false);
    await page.locator(".studio-line .chip", { hasText: "On air" }).waitFor({ timeout: 30 * SECOND });
    await page.waitForFunction(() => document.querySelectorAll(".studio-facts dd")[1].textContent === "nothing", null, { timeout: 30 * SECOND });
    await watching.locator(".live-button").click();
    await watching.waitForFunction((name) => document.querySelector(name).currentTime > 6 && document.querySelector(name).readyState >= 3 && !document.querySelector(name).seeking, watchVideo, { timeout: 30 * SECOND });
    const edge = await readBars(watching, watchVideo);
    await end(page);
    await watching.locator(".watch-head .chip", { hasText: "Ended" }).waitFor();
    const ended = await stateOf(id);
    lists.ended = await listOf(id);
    await watching.getByRole("link", { name: "Open the file" }).click();
    await watching.waitForFunction(() => document.querySelector(".player video")?.readyState >= 3, null, { timeout: 30 * SECOND });
    const duration = await watching.evaluate(() => document.querySelector(".player video").duration);
    const seeks = [];
    for (const place of [0.75, 0.25, 0]) {
      await watching.evaluate((time) => {
        const video = document.querySelector(".player video");
        video.pause();
        return new Promise((resolve) => {
          video.addEventListener("seeked", resolve, { once: true });
          video.currentTime = time;
        });
      }, duration * place);
      seeks.push(await readBars(watching, ".player video"));
    }
    // The errors of a lost network are the browser's own.
    return { live, start: start_, stateAtStart: stateAtStart.state, behind, lost, edge, ended, lists, duration, seeks, errors: [...page.errors.filter((error) => !/ERR_INTERNET_DISCONNECTED|WebSocket/.test(error)), ...watching.errors] };
  },

  /** A viewer without a network, for longer than a sliding window: it goes on at the window's start, with the right frame. */
  async window() {
    const { page, id } = await start("window.mp4");
    const slides = () => {
      const real = window.fetch;
      window.fetch = (address, options) => real(typeof address === "string" ? address.replace(/index\.m3u8$/, "index.m3u8?window=8") : address, options);
    };
    const watching = await open(`#/live/${id}`, { init: [withoutNative, slides] });
    await plays(watching);
    const before = await readBars(watching, watchVideo);
    await watching.evaluate((name) => document.querySelector(name).pause(), watchVideo);
    const windowOf = async () => {
      const text = await (await fetch(`${url}/live/${id}/media.m3u8?window=8`)).text();
      const first = Number(/MEDIA-SEQUENCE:(\d+)/.exec(text)[1]);
      return { first, last: first + text.match(/#EXTINF/g).length - 1 };
    };
    await watching.context().setOffline(true);
    const { last } = await windowOf();
    let now = await windowOf();
    for (const until = Date.now() + 60 * SECOND; now.first <= last + 1 && Date.now() < until; now = await windowOf()) await watching.waitForTimeout(200);
    await watching.context().setOffline(false);
    await watching.evaluate((name) => document.querySelector(name).play(), watchVideo);
    await watching.waitForFunction(
      ([name, time]) => {
        const video = document.querySelector(name);
        return video.currentTime > time && video.readyState >= 3 && !video.seeking;
      },
      [watchVideo, before.time + 2 * (now.first - last)],
      { timeout: 30 * SECOND },
    );
    const after = await readBars(watching, watchVideo);
    await end(page);
    return { before, after, left: now.first - last, errors: [...page.errors, ...watching.errors.filter((error) => !/ERR_INTERNET_DISCONNECTED|WebSocket/.test(error))] };
  },

  /** Said on the page, shown over the picture, and shown again by who has gone back, at the time that it belongs to. */
  async messages() {
    const { page, id } = await start("messages.mp4");
    const watching = await open(`#/live/${id}`, { init: withoutNative });
    const lines = watching.locator(".live-messages li");
    const passes = (seconds) => watching.waitForFunction(([name, time]) => document.querySelector(name)?.currentTime > time, [watchVideo, seconds], { timeout: 30 * SECOND });
    await plays(watching);
    await passes(4);
    const headers = { "content-type": "application/json" };
    const early = await fetch(`${url}/live/${id}/messages`, { method: "POST", headers, body: JSON.stringify({ type: "chat.said", data: { text: "early" }, at: 2 }) });
    await lines.filter({ hasText: "early" }).waitFor();
    await watching.getByLabel("Message", { exact: true }).fill("<b>now</b>");
    await watching.getByRole("button", { name: "Send", exact: true }).click();
    await lines.filter({ hasText: "<b>now</b>" }).waitFor();
    const left = await watching.getByLabel("Message", { exact: true }).inputValue();
    await watching.getByRole("button", { name: "Back to the start" }).click();
    await watching.waitForFunction(() => !document.querySelector(".live-messages li"));
    // A busy machine is late by seconds of the clock: at half the speed these are half as many of the picture.
    await watching.evaluate((name) => void (document.querySelector(name).playbackRate = 0.5), watchVideo);
    // The time is taken in the frame that shows the message, however late the answer comes here.
    const early_ = await watching.waitForFunction(
      (name) => {
        const shown = [...document.querySelectorAll(".live-messages li")].map((line) => line.innerText);
        return shown.some((text) => text.includes("early")) && { shown, at: document.querySelector(name).currentTime };
      },
      watchVideo,
      { timeout: 30 * SECOND, polling: "raf" },
    );
    const { shown: again, at: shownAt } = await early_.jsonValue();
    const { messages } = await (await fetch(`${url}/live/${id}/messages`)).json();
    await end(page);
    await watching.locator(".live-say").waitFor({ state: "hidden" });
    return { early: early.status, left, again, shownAt, stored: messages.map(({ time, data }) => [time, data.text]), errors: [...page.errors, ...watching.errors] };
  },

  /** What the page says when the recorder gives nothing, and where no MP4 can be recorded; discarding. */
  async faults() {
    const { page, id } = await start("faults.mp4");
    await page.waitForFunction(() => /[1-9].* [KM]iB/.test(document.querySelector(".studio-facts dd").textContent), null, { timeout: 30 * SECOND });
    await page.evaluate(() => window.recorder.pause());
    await page.locator(".studio-line .chip", { hasText: "Sending stopped" }).waitFor({ timeout: 30 * SECOND });
    const stopped = await textOf(page, ".studio-air .notice");
    await page.evaluate(() => window.recorder.resume());
    await page.locator(".studio-line .chip", { hasText: "On air" }).waitFor({ timeout: 30 * SECOND });
    // Its bytes do not arrive, though the recorder goes on: only the server can say so.
    const held = [];
    let holds = true;
    await page.route(/\/tus/, (route) => (holds && route.request().method() === "PATCH" ? void held.push(route) : route.continue()));
    await page.locator(".studio-line .chip", { hasText: "Sending stopped" }).waitFor({ timeout: 30 * SECOND });
    const unheard = await textOf(page, ".studio-air .notice");
    const interrupted = (await stateOf(id)).state;
    holds = false;
    for (const route of held) await route.continue().catch(() => {});
    await page.locator(".studio-line .chip", { hasText: "On air" }).waitFor({ timeout: 30 * SECOND });
    await page.unroute(/\/tus/);
    const asked = [];
    page.on("dialog", (dialog) => (asked.push(dialog.type()), void dialog.dismiss()));
    await page.goto(`${url}/#/files`); // another view: the sender goes on
    await page.locator(".files-head").waitFor();
    const before = (await stateOf(id)).bytes;
    const grown = async () => (await stateOf(id)).bytes > before;
    for (const until = Date.now() + 30 * SECOND; !(await grown()) && Date.now() < until; ) await page.waitForTimeout(200);
    const inBackground = await grown();
    await page.goto(`${url}/#/live`);
    await page.getByRole("button", { name: "Discard", exact: true }).click();
    await page.locator("dialog[open] button.filled").click();
    await page.locator(".toast", { hasText: "discarded" }).waitFor();
    const status = (await fetch(`${url}/live/${id}`)).status;

    const other = await open("#/live", { init: [drawCamera, () => (window.MediaRecorder.isTypeSupported = () => false)] });
    await other.getByRole("button", { name: "Go live" }).click();
    await other.getByRole("button", { name: "Camera" }).click();
    await other.locator(".studio > .notice:visible").waitFor();
    const noMp4 = await textOf(other, ".studio > .notice");
    await other.getByRole("button", { name: "Send with ffmpeg" }).click();
    await other.locator(".studio-air code").waitFor();
    const command = await textOf(other, ".studio-air code");
    return { stopped, unheard, interrupted, inBackground, status, noMp4, command, errors: [...page.errors, ...other.errors] };
  },

  /** Loaded when it is opened, in both themes and from 360 px on, with the keyboard, judged by axe. */
  async view() {
    const first = await open("#/files");
    const early = first.requested.filter((path) => /live|hls|fmp4/.test(path));
    await first.context().close();
    const { page, id } = await start("view.mp4");
    const [found, widths] = [[], {}];
    for (const [colorScheme, width] of [["light", 360], ["dark", 1280]]) {
      const viewer = await open("#/live", { init: withoutNative, colorScheme, viewport: { width, height: 800 }, bypassCSP: true });
      const judge = async (what) => {
        await settled(viewer);
        if (!(await viewer.evaluate(() => "axe" in window))) await viewer.evaluate(axeSource); // views share a document
        const { violations } = await viewer.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
        for (const { id: rule, impact, nodes } of violations) if (impact !== "minor") found.push(`${what} ${colorScheme} ${width}: ${rule} ${nodes[0].html.slice(0, 160)} ${nodes[0].failureSummary?.slice(0, 200)}`);
        widths[`${what} ${width}`] = (await viewer.evaluate(() => document.documentElement.scrollWidth)) - width;
      };
      await viewer.locator(".live-row").first().waitFor();
      await judge("list");
      await viewer.getByRole("button", { name: "Go live" }).click();
      await judge("studio");
      await viewer.getByRole("button", { name: "Cancel" }).click();
      await viewer.goto(`${url}/#/live/${id}`);
      await plays(viewer);
      await judge("watch");
      await viewer.locator(watchVideo).focus();
      await viewer.keyboard.press("Home");
      await viewer.waitForFunction((name) => document.querySelector(name).currentTime < 2, watchVideo);
      await viewer.keyboard.press("k");
      await viewer.getByRole("button", { name: "Play", exact: true }).waitFor();
      await viewer.keyboard.press("End");
      await viewer.locator('.live-button[data-live="true"]').waitFor();
      await viewer.getByLabel("Place in the stream").focus();
      found.push(...viewer.errors);
      await viewer.context().close();
    }
    page.setDefaultTimeout(10 * SECOND);
    await page.locator(".studio-air").scrollIntoViewIfNeeded();
    await end(page);
    return { early, found, widths, errors: page.errors };
  },
};

await play(browser, scenarios);
