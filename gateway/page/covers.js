// The cover picture in a sound file: ID3v2 APIC in front of MP3, PICTURE of FLAC (RFC 9639, 8.8), covr of MP4. Reads few ranges, within
// bounds, and needs no browser.
const WINDOW = 64 * 1024; // bytes of one read that looks for structure
const MAX_READS = 12;
const MAX_ENTRIES = 256; // frames, blocks or boxes
const MAX_PICTURE = 4 * 1024 * 1024; // bytes
const FRONT = 3; // picture type "cover (front)" of ID3 and FLAC

const latin = new TextDecoder("latin1");

/** Types of sounds that may have one, as browsers and servers name them. */
export const mayHaveCover = (type) => /^(audio|video)\/(mpeg|mp3|x-mp3|mpeg3|x-mpeg|flac|x-flac|mp4|m4a|x-m4a|m4b|x-m4b|quicktime)\b/.test(type);

/**
 * The cover of a sound file, null where it has none that can be read within bounds.
 * @param {(first: number, length: number) => Promise<Uint8Array>} read may return less at the end
 * @param {number} length of the file in bytes
 * @returns {Promise<{ type: string, bytes: Uint8Array } | null>}
 */
export async function coverOf(read, length) {
  const source = new Source(read, length);
  try {
    const picture = await find(source);
    const type = picture && imageType(picture);
    return type ? { type, bytes: picture } : null;
  } catch (error) {
    if (error instanceof RangeError) return null; // cut off, or beyond the bounds
    throw error;
  }
}

/** Parts of a file; those near each other come with one read. */
class Source {
  #read;
  #first = 0;
  #bytes = new Uint8Array();
  #reads = 0;

  constructor(read, length) {
    this.#read = read;
    this.length = length;
  }

  /** Exactly these bytes. Throws RangeError. */
  async bytes(first, length) {
    if (first + length > this.length || length > MAX_PICTURE) throw new RangeError("beyond the bounds");
    if (first < this.#first || first + length > this.#first + this.#bytes.length) {
      if (++this.#reads > MAX_READS) throw new RangeError("too many reads");
      this.#bytes = await this.#read(first, Math.min(Math.max(length, WINDOW), this.length - first));
      this.#first = first;
      if (this.#bytes.length < length) throw new RangeError("cut off");
    }
    const begin = first - this.#first;
    return this.#bytes.subarray(begin, begin + length);
  }
}

async function find(source) {
  const head = await source.bytes(0, 12);
  if (text(head, 4, 4) === "ftyp") return findInBoxes(source, 0, source.length, ["moov", "udta", "meta", "ilst", "covr", "data"]);
  const tag = text(head, 0, 3) === "ID3" ? 10 + synchsafe(head, 6) + (head[5] & 0x10 ? 10 : 0) : 0;
  const found = tag ? await findInTag(source, head, tag) : null;
  if (found) return found;
  return tag + 4 <= source.length && text(await source.bytes(tag, 4), 0, 4) === "fLaC" ? findInBlocks(source, tag + 4) : null;
}

/** ID3v2.2, 2.3 and 2.4 (id3.org). */
async function findInTag(source, head, size) {
  const [version, flags] = [head[3], head[5]];
  let data = (await source.bytes(0, size)).subarray(10);
  if (flags & 0x80 && version < 4) data = resynchronised(data);
  const view = viewOf(data);
  const [nameBytes, header] = version === 2 ? [3, 6] : [4, 10];
  let at = flags & 0x40 && version > 2 ? (version === 4 ? synchsafe(data, 0) : 4 + view.getUint32(0)) : 0;
  let first = null;
  for (let count = 0; count < MAX_ENTRIES && at + header <= data.length && data[at]; count++) {
    const name = text(data, at, nameBytes);
    const length = version === 2 ? view.getUint32(at + 2) & 0xffffff : version === 4 ? synchsafe(data, at + 4) : view.getUint32(at + 4);
    const format = version === 2 ? 0 : data[at + 9];
    let frame = data.subarray(at + header, at + header + length);
    at += header + length;
    if ((name !== "APIC" && name !== "PIC") || format & (version === 4 ? 0x0c : 0xc0)) continue; // compressed or encrypted
    if (version === 4 && format & 0x01) frame = frame.subarray(4);
    if (version === 4 && (format & 0x02 || flags & 0x80)) frame = resynchronised(frame);
    const picture = pictureOfFrame(frame, version);
    if (picture?.kind === FRONT) return picture.bytes;
    first ??= picture?.bytes ?? null;
  }
  return first;
}

/** Encoding, type (three letters in 2.2, else a text), kind, description, picture. */
function pictureOfFrame(frame, version) {
  const wide = frame[0] === 1 || frame[0] === 2;
  const typeEnd = version === 2 ? 3 : frame.indexOf(0, 1);
  if (typeEnd < 0) return null;
  const kind = frame[typeEnd + 1];
  let end = typeEnd + 2;
  while (end < frame.length && (frame[end] || (wide && frame[end + 1]))) end += wide ? 2 : 1;
  return { kind, bytes: frame.subarray(end + (wide ? 2 : 1)) };
}

async function findInBlocks(source, at) {
  for (let count = 0; count < MAX_ENTRIES; count++) {
    const header = viewOf(await source.bytes(at, 4)).getUint32(0);
    const [kind, length] = [(header >>> 24) & 0x7f, header & 0xffffff];
    if (kind === 6) return pictureOfBlock(await source.bytes(at + 4, length));
    if (header >>> 31) return null;
    at += 4 + length;
  }
  return null;
}

/** Kind, type, description, width, height, depth, colours, picture. */
function pictureOfBlock(block) {
  const view = viewOf(block);
  const description = 8 + view.getUint32(4);
  const length = description + 4 + view.getUint32(description) + 16;
  return block.subarray(length + 4, length + 4 + view.getUint32(length));
}

/** Follow a path of boxes (ISO/IEC 14496-12, 4.2) and return the picture in the last one. */
async function findInBoxes(source, at, end, [wanted, ...rest]) {
  for (let count = 0; count < MAX_ENTRIES && at + 8 <= end; count++) {
    const head = viewOf(await source.bytes(at, Math.min(16, end - at)));
    const large = head.getUint32(0) === 1;
    const size = large ? Number(head.getBigUint64(8)) : head.getUint32(0) || end - at;
    let body = at + (large ? 16 : 8);
    if (size < body - at) return null;
    const boxEnd = Math.min(at + size, end);
    if (text(new Uint8Array(head.buffer, head.byteOffset), 4, 4) === wanted) {
      if (!rest.length) return source.bytes(body + 8, boxEnd - body - 8); // after type and locale
      // In MP4 `meta` has version and flags, in QuickTime it does not.
      if (wanted === "meta" && text(await source.bytes(body, 8), 4, 4) !== "hdlr") body += 4;
      return findInBoxes(source, body, boxEnd, rest);
    }
    at += size;
  }
  return null;
}

const viewOf = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
const text = (bytes, at, length) => latin.decode(bytes.subarray(at, at + length));
const synchsafe = (bytes, at) => ((bytes[at] & 0x7f) << 21) | ((bytes[at + 1] & 0x7f) << 14) | ((bytes[at + 2] & 0x7f) << 7) | (bytes[at + 3] & 0x7f);

/** Take away the zero after each 0xff, which was put there for decoders without support for tags. */
function resynchronised(bytes) {
  const found = new Uint8Array(bytes.length);
  let length = 0;
  for (let at = 0; at < bytes.length; at++) if (at === 0 || bytes[at] !== 0 || bytes[at - 1] !== 0xff) found[length++] = bytes[at];
  return found.subarray(0, length);
}

/** By its first bytes: what a file says of its picture is often wrong. */
function imageType(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return "image/jpeg";
  const begin = text(bytes, 0, 12);
  if (bytes[0] === 0x89 && begin.startsWith("PNG", 1)) return "image/png"; // "latin1" is windows-1252 to browsers
  if (begin.startsWith("GIF8")) return "image/gif";
  return begin.startsWith("RIFF") && begin.endsWith("WEBP") ? "image/webp" : null;
}
