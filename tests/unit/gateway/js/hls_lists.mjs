// Reads lists as the page does, and prints what it found.
import { readFileSync } from "node:fs";
import { parseIndex, parseList, reloadAddress, segmentAt } from "./hls_list.js";
const { steps, index } = JSON.parse(readFileSync("given.json", "utf-8"));
const base = "http://a/live/x/media.m3u8?link=t";
const read = ({ segments, ...list }) =>
  ({ ...list, segments: segments.map((one) => [one.number, one.address, one.start, one.duration, one.map, one.epoch]) });
const seen = [];
let previous = null;
for (const { whole, delta, window } of steps) {
  const list = parseList(whole, base);
  seen.push({ whole: read(list), delta: read(parseList(delta, base, previous)), window: read(parseList(window, base, previous)) });
  previous = list;
}
const at = [-5, 0, 1.9, 2.1, 1e9].map((time) => segmentAt(previous, time).number);
const fails = (text, before) => {
  try {
    parseList(text, base, before);
    return "";
  } catch (error) {
    return error.message;
  }
};
const faults = ["", "#EXTM3U\n", "<html>", steps.at(-1).delta, "#EXTM3U\n#EXT-X-TARGETDURATION:2\n0.m4s\n"].map((text) => fails(text, null));
const asked = [0, 1e9].map((age) => reloadAddress(base, previous, age));
console.log(JSON.stringify({ seen, at, faults, asked, index: parseIndex(index, "http://a/live/x/index.m3u8?link=t") }));
