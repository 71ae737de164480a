// The player by Media Source Extensions against a media element and buffers that do what the standard says, without pictures.
import { readFileSync } from "node:fs";
import { baseTime, timescales } from "./fmp4.js";
const { lists, inits, segments, length } = JSON.parse(readFileSync("given.json", "utf-8"));
const bytes = (text) => Uint8Array.from(Buffer.from(text, "base64")).buffer;
const later = () => new Promise((resolve) => setTimeout(resolve));

/** Ranges of time, as TimeRanges has them. */
class Ranges {
  all = [];
  get length() { return this.all.length; }
  start(index) { return this.all[index][0]; }
  end(index) { return this.all[index][1]; }
  add(begin, end) {
    const joined = [[begin, end]];
    for (const [from, to] of this.all) {
      if (to < joined[0][0] - 0.01 || from > joined[0][1] + 0.01) joined.push([from, to]);
      else joined[0] = [Math.min(from, joined[0][0]), Math.max(to, joined[0][1])];
    }
    this.all = joined.sort((one, other) => one[0] - other[0]);
  }
  remove(begin, end) {
    this.all = this.all.flatMap(([from, to]) => [[from, Math.min(to, begin)], [Math.max(from, end), to]].filter(([one, other]) => other > one));
  }
}
const log = [];
let pause = [Infinity, Infinity];
class Buffer_ {
  buffered = new Ranges();
  updating = false;
  timestampOffset = 0;
  scales = null;
  #run(work) {
    if (this.updating) throw new Error("InvalidStateError");
    this.updating = true;
    media.readyState = "open";
    setTimeout(() => {
      work();
      this.updating = false;
      this.onupdateend?.();
    });
  }
  appendBuffer(data) {
    this.#run(() => {
      const scales = timescales(data);
      if (scales.size) {
        log.push("init");
        this.scales = scales;
        return;
      }
      const begin = baseTime(data, this.scales) + this.timestampOffset;
      if (begin >= pause[0] && begin < pause[1]) return; // one track alone
      this.buffered.add(begin, begin + length);
    });
  }
  remove(begin, end) { this.#run(() => this.buffered.remove(begin, end)); }
}
let media;
class Media extends EventTarget {
  static isTypeSupported = () => true;
  readyState = "open";
  duration = NaN;
  constructor() { super(); media = this; setTimeout(() => this.dispatchEvent(new Event("sourceopen"))); }
  addSourceBuffer(type) { log.push(type); return (video.buffer = new Buffer_()); }
  setLiveSeekableRange(begin, end) { this.seekable = [begin, end]; }
  endOfStream() { this.readyState = "ended"; this.duration = video.buffered.end(video.buffered.length - 1); }
}
globalThis.MediaSource = Media;
URL.createObjectURL = () => "blob:x";
URL.revokeObjectURL = () => {};
const video = new (class extends EventTarget {
  buffer = null;
  #time = 0;
  get buffered() { return this.buffer?.buffered ?? new Ranges(); }
  get duration() { return media.duration; }
  get currentTime() { return this.#time; }
  set currentTime(time) { this.#time = time; setTimeout(() => this.dispatchEvent(new Event("seeking"))); }
  play(time) { this.#time = time; this.dispatchEvent(new Event("timeupdate")); }
})();
let step = 0;
let waiting = [];
const held = (signal) =>
  new Promise((resolve, reject) => {
    waiting.push(resolve);
    signal.addEventListener("abort", () => reject(signal.reason));
  });
/** The next list is there. */
function advance() {
  step = Math.min(step + 1, lists.length - 1);
  for (const resolve of waiting.splice(0)) resolve();
}
const fetched = [];
globalThis.fetch = async (address, { signal }) => {
  const url = new URL(address);
  const [, number] = url.pathname.match(/(\d+)\.m4s$/) ?? [];
  const answer = (body) => Object.assign(new Response(body), {});
  if (url.pathname.endsWith("index.m3u8")) return withUrl(answer('#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="avc1.42c01f,mp4a.40.2"\nmedia.m3u8\n'), url);
  if (url.pathname.endsWith("media.m3u8")) {
    if (url.searchParams.has("_HLS_msn")) await held(signal);
    return withUrl(answer(lists[step]), url);
  }
  if (number !== undefined) {
    fetched.push(Number(number));
    return withUrl(answer(bytes(segments[Number(number)])), url);
  }
  return withUrl(answer(bytes(inits[Number(url.pathname.match(/(\d+)\/init.mp4$/)[1])])), url);
};
const withUrl = (response, url) => Object.defineProperty(response, "url", { value: url.href });
const { HlsSource } = await import("./hls_source.js");
let failed = null;
const source = new HlsSource(video, "http://a/live/x/index.m3u8", { failed: (error) => (failed = String(error)) });
const until = async (matches) => {
  for (let tries = 0; tries < 4000; tries++) {
    if (matches()) return;
    await later();
  }
  throw new Error(`${matches} after ${JSON.stringify([video.currentTime, video.buffered.all, fetched, failed])}`);
};
const holds = (time) => video.buffered.all.some(([begin, end]) => begin <= time && time < end);
const seen = {};
await until(() => source.range && holds(video.currentTime) && video.currentTime > 0);
seen.joined = [video.currentTime, fetched[0], source.range];
// Play to the last list, two seconds at a time.
let widest = 0;
for (let time = video.currentTime; time < (lists.length + 15) * length; time += length) {
  if (step + 1 < lists.length) {
    await until(() => waiting.length > 0);
    advance();
  }
  await until(() => holds(time));
  video.play(time);
  await later();
  widest = Math.max(widest, time - video.buffered.start(0));
}
seen.widest = widest;
seen.log = [...log];
seen.epochs = video.buffered.length;
// Back to the start, which has left the buffer.
fetched.length = 0;
const wasThere = holds(0.5);
video.currentTime = 0;
await until(() => holds(0.5) && holds(10));
seen.rewound = [wasThere, fetched.slice(0, 3), video.buffered.start(0)];
await later();
const all = video.buffered.all.reduce((sum, [begin, end]) => sum + end - begin, 0);
seen.bounded = all < 130;
// To a place in the middle: the list may say another one.
fetched.length = 0;
video.currentTime = 61;
await until(() => holds(61));
seen.middle = [...fetched];
// A track pauses for longer than what is loaded ahead.
video.buffer.buffered.remove(0, Infinity);
pause = [90 * length / 2 - 0.5, 120 * length / 2 - 0.5];
video.currentTime = 80.5;
const rangeAt = (time) => video.buffered.all.find(([begin, end]) => begin <= time && time < end) ?? [NaN, NaN];
await until(() => rangeAt(80.5)[1] > pause[0]);
const [, end] = rangeAt(80.5);
video.play(end - 0.01);
await until(() => video.currentTime > end);
const [begin] = rangeAt(video.currentTime);
seen.paused = [begin - end, video.currentTime - begin];
// A browser that plays the other track on for some seconds, and waits then.
fetched.length = 0;
video.play(end + 3);
await until(() => video.currentTime >= begin);
seen.ranOn = [video.currentTime - begin, [...fetched]];
pause = [Infinity, Infinity];
// To the edge again, and to the end.
fetched.length = 0;
video.currentTime = source.edge;
await until(() => holds(source.edge + 1));
seen.again = fetched.length > 0 && fetched[0] > 50;
lists.push(`${lists.at(-1)}#EXT-X-ENDLIST\n`);
await until(() => waiting.length > 0);
step = lists.length - 2;
advance();
await until(() => media.readyState === "ended");
seen.ended = [source.range.ended, media.duration];
seen.failed = failed;
source.close();
console.log(JSON.stringify(seen));
process.exit(0);
