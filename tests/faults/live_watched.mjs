// Watches one live stream on the page, in Chromium, from its edge to its end, and counts whatever would be a player made anew.
//
// node live_watched.mjs URL CHROMIUM ID SECONDS. Prints {"playing": true} and then {"seen": {...}}, a JSON line each. The test judges them.
import { launch, visit } from "./chromium.mjs";

const [url, executablePath, id, seconds] = process.argv.slice(2);
const browser = await launch(executablePath, "--mute-audio", "--autoplay-policy=no-user-gesture-required");
const page = await browser.newPage();
const timeout = Number(seconds) * 1000;
const say = (line) => console.log(JSON.stringify(line));

await page.addInitScript(() => {
  const made = (window.made = { sources: 0, buffers: 0, documents: 0 });
  addEventListener("DOMContentLoaded", () => made.documents++);
  for (const name of ["MediaSource", "ManagedMediaSource"]) {
    if (!(name in window)) continue;
    window[name] = class extends window[name] {
      constructor() {
        super();
        made.sources++;
      }
      addSourceBuffer(type) {
        made.buffers++;
        return super.addSourceBuffer(type);
      }
    };
  }
});
try {
  await visit(page, `${url}/#/live/${id}`);
  const video = await page.waitForSelector(".live-player video", { state: "attached", timeout });
  await page.waitForFunction((one) => one.readyState >= 3 && one.currentTime > 0, video, { timeout, polling: 50 });
  await video.evaluate((one) => {
    const seen = (window.seen = { began: one.currentTime, loads: 0, errors: 0, seeks: 0, waits: 0, back: 0, shrunk: 0, stall: 0, samples: 0 });
    for (const [event, what] of [["emptied", "loads"], ["error", "errors"], ["seeking", "seeks"], ["waiting", "waits"]]) one.addEventListener(event, () => seen[what]++);
    let [time, end, moved] = [one.currentTime, 0, performance.now()];
    setInterval(() => {
      const last = one.buffered.length ? one.buffered.end(one.buffered.length - 1) : 0;
      seen.samples++;
      if (last < end - 0.1) seen.shrunk++; // the end of a stream may cut a frame that one track has more
      if (one.currentTime < time) seen.back++;
      if (one.currentTime !== time && !one.ended) moved = performance.now();
      else if (!one.ended) seen.stall = Math.max(seen.stall, (performance.now() - moved) / 1000);
      [time, end] = [one.currentTime, last];
    }, 100);
  });
  say({ playing: true });
  await page.waitForFunction((one) => one.ended, video, { timeout, polling: 100 });
  const seen = await video.evaluate((one) => ({
    ...window.seen,
    ...window.made,
    same: [...document.querySelectorAll(".live-player video")].length === 1 && document.querySelector(".live-player video") === one,
    time: one.currentTime,
    said: document.querySelector(".live-message").textContent,
  }));
  say({ seen });
} catch (error) {
  const now = await page.evaluate(() => ({ ...window.seen, ...window.made, text: document.body.innerText.slice(0, 500) })).catch(String);
  say({ seen: { failed: String(error), now } });
}
await browser.close();
