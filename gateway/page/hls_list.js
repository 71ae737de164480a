// Reads playlists of HLS (draft-pantos-hls-rfc8216bis): what our own server writes, and no more. Pure.

/**
 * @typedef {{ number: number, address: string, start: number, duration: number, map: string, epoch: number }} Segment
 *   `start` is where it begins in the list's time, in seconds; segments of one `epoch` belong to one beginning of the sender.
 * @typedef {{
 *   target: number, hold: number, segments: Segment[], ended: boolean, blocking: boolean, skip: number, start: number, end: number,
 * }} List `hold`: seconds behind the end at which playing begins; `skip`: seconds from the end before which a delta skips, or 0
 */

/** The attributes of a tag, without the quotes. */
export function attributes(text) {
  return Object.fromEntries([...text.matchAll(/([A-Z0-9-]+)=("[^"]*"|[^,]*)/g)].map(([, name, value]) => [name, value.replace(/^"|"$/g, "")]));
}

/**
 * The media playlist that a multivariant playlist names first, and its codecs.
 * @returns {{ address: string, codecs: string }}
 */
export function parseIndex(text, base) {
  const lines = split(text);
  const at = lines.findIndex((line) => line.startsWith("#EXT-X-STREAM-INF:"));
  const uri = lines.slice(at + 1).find((line) => !line.startsWith("#"));
  if (at < 0 || !uri) throw new Error("the playlist names no stream");
  return { address: new URL(uri, base).href, codecs: attributes(lines[at]).CODECS ?? "" };
}

/**
 * A media playlist. `previous` is the list before it: a delta update takes from there what it skips, and the times go on.
 * @returns {List}
 */
export function parseList(text, base, previous = null) {
  const lines = split(text);
  const list = { target: 0, hold: 0, segments: [], ended: false, blocking: false, skip: 0, start: 0, end: 0 };
  const fresh = { number: 0, epoch: 0, map: "", duration: NaN };
  for (const line of lines) {
    const [tag, value = ""] = line.startsWith("#") ? [line.split(":", 1)[0], line.slice(line.indexOf(":") + 1)] : ["", ""];
    if (tag === "#EXT-X-TARGETDURATION") list.target = Number(value);
    else if (tag === "#EXT-X-MEDIA-SEQUENCE") fresh.number = Number(value);
    else if (tag === "#EXT-X-DISCONTINUITY-SEQUENCE") fresh.epoch = Number(value);
    else if (tag === "#EXT-X-DISCONTINUITY") fresh.epoch++;
    else if (tag === "#EXT-X-MAP") fresh.map = new URL(attributes(value).URI, base).href;
    else if (tag === "#EXTINF") fresh.duration = parseFloat(value);
    else if (tag === "#EXT-X-ENDLIST") list.ended = true;
    else if (tag === "#EXT-X-SERVER-CONTROL") {
      const control = attributes(value);
      list.blocking = control["CAN-BLOCK-RELOAD"] === "YES";
      list.skip = Number(control["CAN-SKIP-UNTIL"] ?? 0);
      list.hold = Number(control["HOLD-BACK"] ?? 0);
    } else if (tag === "#EXT-X-SKIP") skip(list, fresh, Number(attributes(value)["SKIPPED-SEGMENTS"]), previous);
    else if (tag === "") {
      append(list, fresh, new URL(line, base).href, previous);
      fresh.number++;
    }
  }
  if (lines[0] !== "#EXTM3U" || !(list.target > 0)) throw new Error("the server sent no playlist");
  list.hold ||= 3 * list.target;
  list.start = list.segments[0]?.start ?? 0;
  list.end = endOf(list.segments.at(-1));
  return list;
}

function skip(list, fresh, count, previous) {
  const kept = previous?.segments.filter(({ number }) => number >= fresh.number && number < fresh.number + count) ?? [];
  if (kept.length !== count) throw new Error("the update skips segments that are not known");
  list.segments.push(...kept);
  const last = kept.at(-1);
  fresh.number += count;
  if (last) [fresh.epoch, fresh.map] = [last.epoch, last.map];
}

function append(list, { number, epoch, map, duration }, address, previous) {
  if (!(duration >= 0) || !map) throw new Error("a segment has no length or no beginning");
  const before = list.segments.at(-1);
  // The first one of a sliding list begins where it began before.
  const start = before ? endOf(before) : (previous?.segments[number - previous.segments[0]?.number]?.start ?? (previous?.end || 0));
  list.segments.push({ number, address, start, duration, map, epoch });
}

const endOf = (segment) => (segment ? segment.start + segment.duration : 0);
const split = (text) => text.split(/\r?\n/).filter((line) => line && (!line.startsWith("#") || line.startsWith("#EXT")));

/** The segment at a time of the list; the first or the last one where that is outside. */
export function segmentAt(list, time) {
  let [low, high] = [0, list.segments.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (list.segments[middle].start <= time) low = middle;
    else high = middle - 1;
  }
  return list.segments[low];
}

/** The address of the next version of a list: held by the server until the next segment is there, without what is known already. */
export function reloadAddress(address, list, age) {
  const url = new URL(address);
  if (list.blocking && list.segments.length) url.searchParams.set("_HLS_msn", String(list.segments.at(-1).number + 1));
  if (list.skip && age < (list.skip / 2) * 1000) url.searchParams.set("_HLS_skip", "YES");
  return url.href;
}
