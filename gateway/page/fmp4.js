// The few facts of fragmented MP4 (ISO/IEC 14496-12) that an MSE player needs. Pure.

/** The boxes between two places: their type, and where what is in them begins and ends. */
export function* boxes(view, begin = 0, end = view.byteLength) {
  for (let at = begin; at + 8 <= end; ) {
    const type = String.fromCharCode(...[4, 5, 6, 7].map((offset) => view.getUint8(at + offset)));
    let [size, head] = [view.getUint32(at), 8];
    if (size === 1 && at + 16 <= end) [size, head] = [Number(view.getBigUint64(at + 8)), 16];
    else if (size === 0) size = end - at;
    if (size < head || at + size > end) return;
    yield { type, begin: at + head, end: at + size };
    at += size;
  }
}

/** All boxes at a path below `place`. */
function* find(view, path, place = { begin: 0, end: view.byteLength }) {
  const [first, ...rest] = path;
  for (const box of boxes(view, place.begin, place.end)) {
    if (box.type !== first) continue;
    if (rest.length) yield* find(view, rest, box);
    else yield box;
  }
}

/** Time scales by track, of an initialisation segment. */
export function timescales(init) {
  const view = new DataView(init);
  const found = new Map();
  for (const track of find(view, ["moov", "trak"])) {
    const [tkhd] = find(view, ["tkhd"], track);
    const [mdhd] = find(view, ["mdia", "mdhd"], track);
    if (!tkhd || !mdhd) continue;
    const id = view.getUint32(tkhd.begin + (view.getUint8(tkhd.begin) === 1 ? 20 : 12));
    found.set(id, view.getUint32(mdhd.begin + (view.getUint8(mdhd.begin) === 1 ? 20 : 12)));
  }
  return found;
}

/** When a segment begins by its own clock, in seconds: the earliest of the tracks of its first fragment; null where it does not say. */
export function baseTime(segment, scales) {
  const view = new DataView(segment);
  const [first] = find(view, ["moof"]);
  if (!first) return null;
  let earliest = Infinity;
  for (const track of find(view, ["traf"], first)) {
    const [tfhd] = find(view, ["tfhd"], track);
    const [tfdt] = find(view, ["tfdt"], track);
    const scale = tfhd && scales.get(view.getUint32(tfhd.begin + 4));
    if (!tfdt || !scale) continue;
    const wide = view.getUint8(tfdt.begin) === 1;
    const ticks = wide ? Number(view.getBigUint64(tfdt.begin + 4)) : view.getUint32(tfdt.begin + 4);
    earliest = Math.min(earliest, ticks / scale);
  }
  return earliest === Infinity ? null : earliest;
}
