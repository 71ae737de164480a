// The live module of @gridcast/client against a server that answers as each test says: the buffer, resuming, what is refused, the
// states of a stream. Run by node --test.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { Gridcast } from "@gridcast/client";
import { chooseType, Live } from "@gridcast/client/live";
import { liveState } from "@gridcast/client/rxjs";
import { toArray, firstValueFrom } from "rxjs";
import { WebSocket, WebSocketServer } from "ws";
import { MessageTrack } from "./node_modules/@gridcast/client/src/live_messages.js";
import { SendBuffer } from "./node_modules/@gridcast/client/src/send_buffer.js";
import { recordableTypes } from "./node_modules/@gridcast/client/src/recorder.js";

Math.random = () => 0.05; // the jitter of back-off: short waits

const TARGET = { id: "s1", publish_token: "secret", tus: "/live/s1/tus" };
const data = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 7 + (index >> 8)) & 255);
const info = (more = {}) => ({ id: "s1", state: "live", viewers: 0, file: null, ...more });

/**
 * A server of one stream. It keeps what it acknowledges; `fault(request, number, kept)` may answer in its place: an array, or null to
 * cut the connection. `keeps(size)`: how many bytes of a body are kept.
 */
async function serve(context, { fault = () => undefined, keeps = (size) => size } = {}) {
  const state = { kept: Buffer.alloc(0), length: null, seen: [], sockets: [] };
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const { method, url, headers } = request;
    state.seen.push({ method, url, headers, body });
    const given = fault(state.seen.at(-1), state.seen.length, state);
    const answer = given === undefined ? ordinary(method, headers, body) : given;
    if (answer === null) return request.socket.destroy();
    const [status, more = {}, text = ""] = answer;
    response.writeHead(status, more).end(text);
  });
  const ordinary = (method, headers, body) => {
    const offset = () => ({ "upload-offset": state.kept.length, ...(state.length === null ? { "upload-defer-length": "1" } : { "upload-length": state.length }) });
    if (method === "GET") return [200, {}, JSON.stringify(info({ state: state.length === null ? "live" : "ended" }))];
    if (method === "POST") {
      state.kept = Buffer.alloc(0);
      return [201, { ...offset(), location: `${TARGET.tus}?source=4` }];
    }
    if (method === "PATCH") {
      if (Number(headers["upload-offset"]) !== state.kept.length) return [409, {}, '{"detail":"offset"}'];
      state.kept = Buffer.concat([state.kept, body.subarray(0, keeps(body.length))]);
      if (headers["upload-length"] && state.kept.length === Number(headers["upload-length"])) state.length = state.kept.length;
      return [204, offset()];
    }
    return [200, offset()];
  };
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  state.url = `http://127.0.0.1:${server.address().port}`;
  state.server = server;
  return state;
}
const publish = ({ url }, source, options = {}) => new Live(new Gridcast({ url, token: "of the user" })).publish(TARGET, { source, chunkSize: 64_000, ...options });

/** A source that is pushed by the test. */
function pushed() {
  const parts = [];
  let wake = () => {};
  return {
    push: (...more) => (parts.push(...more), wake()),
    async *[Symbol.asyncIterator]() {
      for (;;) {
        while (!parts.length) await new Promise((resolve) => (wake = resolve));
        const part = parts.shift();
        if (part === null) return;
        yield part;
      }
    },
  };
}
async function until(broadcast, matches) {
  if (matches(broadcast.snapshot)) return broadcast.snapshot;
  return new Promise((resolve) => {
    const remove = broadcast.onChange((snapshot) => matches(snapshot) && (remove(), resolve(snapshot)));
  });
}

test("the buffer gives each byte by its place until it is confirmed", async () => {
  const buffer = new SendBuffer();
  for (let at = 0; at < 1000; at += 37) buffer.push(new Blob([data.slice(at, Math.min(1000, at + 37))]), at);
  const bytes = async (offset, most) => new Uint8Array(await buffer.slice(offset, most).arrayBuffer());
  for (const [offset, most] of [[0, 10], [36, 2], [37, 37], [0, 5000], [999, 5], [1000, 5]]) {
    assert.deepEqual(await bytes(offset, most), data.slice(offset, Math.min(1000, offset + most)), `${offset} ${most}`);
  }
  buffer.confirm(40);
  assert.deepEqual([buffer.begin, buffer.end, buffer.size, buffer.age(137)], [40, 1000, 960, 100]);
  assert.deepEqual(await bytes(40, 3), data.slice(40, 43));
  for (const wrong of [39, 1001, NaN]) assert.throws(() => buffer.confirm(wrong), RangeError);
  assert.throws(() => buffer.slice(39, 1), RangeError);
  buffer.confirm(1000);
  assert.deepEqual([buffer.size, buffer.age(5000)], [0, 0]);
  buffer.close();
  assert.throws(() => buffer.push(new Blob(["x"]), 0), TypeError);
});

test("the best type is chosen, and where none is there ffmpeg is named", () => {
  const both = recordableTypes({ video: true, audio: true });
  assert.deepEqual(both.slice(0, 3), ["video/mp4;codecs=avc3,mp4a.40.2", "video/mp4;codecs=avc1,mp4a.40.2", "video/mp4;codecs=avc3,opus"]);
  assert.match(both[4], /vp09/);
  assert.equal(chooseType({ video: true, audio: true }, (type) => type.includes("opus")), "video/mp4;codecs=avc3,opus");
  assert.equal(chooseType({ video: true, audio: false }, (type) => !type.includes("avc3")), "video/mp4;codecs=avc1");
  assert.equal(chooseType({ video: false, audio: true }, () => true), "audio/mp4;codecs=mp4a.40.2");
  assert.throws(() => chooseType({ video: true, audio: true }, () => false), { status: 0, message: /ffmpeg/ });
});

test("a source goes up with the stream's token, and its length ends it", async (context) => {
  const server = await serve(context);
  const broadcast = publish(server, new Blob([data]));
  const state = await broadcast.done;
  assert.equal(state.state, "ended");
  assert.ok(server.kept.equals(data));
  assert.equal(server.length, data.length);
  const tus = server.seen.filter(({ url }) => url.startsWith(TARGET.tus));
  assert.ok(tus.slice(1).every(({ url }) => url.endsWith("?source=4")));
  assert.ok(tus.every(({ headers }) => headers.authorization === "Bearer secret" && headers["tus-resumable"] === "1.0.0"));
  assert.equal(tus[0].headers["upload-defer-length"], "1");
  assert.equal(tus.filter(({ headers }) => headers["upload-length"]).length, 1, "with the last bytes alone");
  assert.equal(server.seen.at(-1).headers.authorization, "Bearer of the user");
  assert.deepEqual([broadcast.snapshot.state, broadcast.snapshot.durable, broadcast.snapshot.buffered], ["ended", data.length, 0]);
});

test("after any cut it goes on at the byte that the server has", async (context) => {
  let cuts = 0;
  const fault = ({ method, body, headers }, number, state) => {
    if (method !== "PATCH") return number % 5 === 0 ? [503, { "retry-after": "0" }] : undefined;
    if (number % 3 !== 0 || headers["upload-length"]) return undefined;
    cuts++;
    // Some of it was kept, and the answer was lost.
    state.kept = Buffer.concat([state.kept, body.subarray(0, body.length >> 1)]);
    return null;
  };
  const server = await serve(context, { fault });
  await publish(server, new Blob([data]), { chunkSize: 20_000 }).done;
  assert.ok(cuts > 2);
  assert.ok(server.kept.equals(data));
  assert.equal(server.seen.filter(({ method }) => method === "POST").length, 1, "the source is the same");
});

test("what was not acknowledged is sent again", async (context) => {
  const server = await serve(context, { keeps: (size) => (size > 20_000 ? 20_000 : size) });
  await publish(server, new Blob([data])).done;
  assert.ok(server.kept.equals(data));
  assert.ok(!server.seen.some(({ method }) => method === "HEAD"), "the answer says what is there");
});

test("where the answer to the last bytes was lost, the stream has ended", async (context) => {
  const fault = (request, _, state) => {
    if (request.method === "PATCH" && state.length !== null) return [410, {}, '{"detail":"ended"}'];
    if (request.method === "HEAD") return [410];
    if (!request.headers["upload-length"]) return undefined;
    state.length = data.length;
    return null;
  };
  const server = await serve(context, { fault });
  const broadcast = publish(server, new Blob([data]));
  assert.equal((await broadcast.done).state, "ended");
  assert.equal(broadcast.snapshot.error?.status ?? 0, 0);
});

test("a full buffer stops the source, and says that sending is behind", async (context) => {
  let open = false;
  let read = 0;
  const server = await serve(context, { fault: ({ method }) => (method === "PATCH" && !open ? [503, { "retry-after": "0" }] : undefined) });
  const source = (async function* () {
    for (let at = 0; at < data.length; at += 10_000) {
      yield data.slice(at, at + 10_000);
      read++;
    }
  })();
  const broadcast = publish(server, source, { maxBuffered: 50_000 });
  await until(broadcast, ({ paused, state }) => paused && state === "retrying");
  assert.equal(broadcast.snapshot.buffered, 50_000);
  assert.equal(read, 4, "the fifth part is held");
  assert.equal(broadcast.snapshot.error.status, 503);
  await until(broadcast, ({ behind }) => behind);
  open = true;
  await broadcast.done;
  assert.ok(server.kept.equals(data));
  assert.deepEqual([broadcast.snapshot.paused, broadcast.snapshot.behind], [false, false]);
});

for (const [status, detail] of [[400, "no key frame"], [401, "no"], [403, "no"], [404, "no"], [413, "large"], [415, "WebM"], [507, "full"]]) {
  test(`${status} is final and says why`, async (context) => {
    const server = await serve(context, { fault: ({ method }) => (method === "PATCH" ? [status, {}, JSON.stringify({ detail })] : undefined) });
    const broadcast = publish(server, new Blob([data]));
    await assert.rejects(broadcast.done, { status, message: detail });
    assert.equal(broadcast.state, "failed");
    assert.equal(server.seen.filter(({ method }) => method === "PATCH").length, 1);
  });
}

test("bytes of another sender are not built upon", async (context) => {
  const server = await serve(context, { fault: ({ method }) => (method === "PATCH" ? [204, { "upload-offset": 999_999_999 }] : undefined) });
  await assert.rejects(publish(server, new Blob([data])).done, /another sender/);
});

test("a stream that someone else ended is no failure of the sender", async (context) => {
  const server = await serve(context, { fault: ({ method }, number) => (method === "PATCH" && number > 2 ? [410, {}, '{"detail":"the stream has ended"}'] : method === "GET" ? [200, {}, JSON.stringify(info({ state: "ended", reason: "ended" }))] : undefined) });
  const broadcast = publish(server, new Blob([data]));
  assert.equal((await broadcast.done).reason, "ended");
  assert.equal(broadcast.snapshot.error.message, "the stream has ended");
});

test("stop sends the rest, cancel does not", async (context) => {
  const server = await serve(context);
  const source = pushed();
  source.push(data.slice(0, 1000));
  const broadcast = publish(server, source);
  await until(broadcast, ({ durable }) => durable === 1000);
  source.push(data.slice(1000, 2000));
  await until(broadcast, ({ produced }) => produced === 2000);
  await broadcast.stop();
  assert.equal(server.length, 2000);

  const other = await serve(context);
  const left = pushed();
  left.push(data.slice(0, 1000));
  const abandoned = publish(other, left);
  await until(abandoned, ({ durable }) => durable === 1000);
  abandoned.cancel();
  await assert.rejects(abandoned.done, { name: "AbortError" });
  assert.deepEqual([abandoned.state, other.length], ["cancelled", null]);
});

test("creating, listing, ending and removing are one request each", async (context) => {
  const server = await serve(context, {
    fault: ({ method, url }) => {
      if (method === "GET" && url.startsWith("/live?")) return [200, {}, '{"streams":[],"next":null}'];
      if (method === "DELETE") return [204];
      if (method === "POST" && url === "/live") return [201, {}, JSON.stringify(TARGET)];
      if (method === "POST" && url.endsWith("/end")) return [200, {}, JSON.stringify(info({ state: "ended" }))];
      return undefined;
    },
  });
  const live = new Live(new Gridcast({ url: `${server.url}/prefix/..` }));
  assert.equal((await live.create({ filename: "a.mp4", folder: "f", grace: 5 })).publish_token, "secret");
  assert.deepEqual(JSON.parse(server.seen[0].body), { filename: "a.mp4", folder: "f", grace: 5 });
  assert.deepEqual(await live.list({ limit: 5, after: "x" }), { streams: [], next: null });
  assert.equal((await live.end("s1")).state, "ended");
  await live.remove("s1");
  assert.deepEqual(server.seen.map(({ method, url }) => `${method} ${url}`), ["POST /live", "GET /live?after=x&limit=5", "POST /live/s1/end", "DELETE /live/s1"]);
  assert.equal(live.playlistAddress({ id: "s1" }), `${server.url}/live/s1/index.m3u8`);
  assert.equal(live.playlistAddress({ id: "s1", playlist: "/other" }), `${server.url}/other`);
});

test("the state of a stream follows its events, and completes with its end", async (context) => {
  const server = await serve(context, { fault: ({ method }) => (method === "GET" ? [200, {}, JSON.stringify(info({ state: "waiting" }))] : undefined) });
  const sockets = new WebSocketServer({ server: server.server });
  const events = [
    ["live.started", { codecs: ["avc1.42c01f", "opus"], width: 640, height: 360, playlist: "p" }],
    ["live.viewers", { viewers: 3 }],
    ["live.interrupted", { since: "t" }],
    ["live.resumed", { epoch: 1 }],
    ["live.warning", { kind: "gop" }],
    ["live.ended", { reason: "ended", file: { folder: "", filename: "a.mp4", revision: 1, etag: '"e"' } }],
  ];
  const closed = new Promise((resolve) => {
    sockets.on("connection", (socket) => {
      socket.send(JSON.stringify({ sid: "x", resume: "r", sequence: "0", recovered: false }));
      socket.on("close", resolve);
      setTimeout(() => {
        for (const [index, [type, content]] of events.entries()) {
          socket.send(JSON.stringify({ specversion: "1.0", id: String(index), source: "s", sequence: String(index), topic: "live/s1", type, time: "2026-11-28T00:00:00Z", data: content }));
        }
      }, 300); // the state has been read by then, or the events are kept until it is
    });
  });
  context.after(() => sockets.close());
  const live = new Live(new Gridcast({ url: server.url, WebSocket }));
  const states = await firstValueFrom(liveState(live, "s1").pipe(toArray()));
  const changes = states.map(({ state, viewers, codecs }) => [state, viewers, codecs?.join() ?? null]).filter((one, index, all) => JSON.stringify(one) !== JSON.stringify(all[index - 1]));
  const codecs = "avc1.42c01f,opus";
  assert.deepEqual(changes, [["waiting", 0, null], ["live", 0, codecs], ["live", 3, codecs], ["interrupted", 3, codecs], ["live", 3, codecs], ["ended", 3, codecs]]);
  assert.equal(states.at(-1).file.filename, "a.mp4");
  await closed; // nobody is left who needs the socket
});

/** Messages of a stream as the server gives them, a player that the test moves, and what was given to it. */
function messageTrack(context, stored, more = {}) {
  const state = { now: NaN, given: [], seeks: [], reads: [], hear: () => {}, gap: () => {} };
  const events = {
    subscribe: (topic, listener) => {
      assert.equal(topic, "live/s1");
      state.hear = (data) => listener({ type: "live.message", data: { id: "s1", ...data } });
      return { ready: Promise.resolve(), unsubscribe: () => (state.left = true) };
    },
    onGap: (listener) => ((state.gap = listener), () => {}),
  };
  const read = async ({ from, to, after }) => {
    state.reads.push([from, to, after]);
    if (more.fails?.(state.reads.length)) throw new Error("away");
    const found = stored.filter(({ time }) => time >= from && time < to);
    const rest = after === null ? found : found.slice(Number(after));
    const begin = found.length - rest.length;
    return { messages: rest.slice(0, 2), next: rest.length > 2 ? String(begin + 2) : null };
  };
  const track = new MessageTrack(read, events, "live/s1", () => state.now, {
    onMessage: ({ message }) => state.given.push(message),
    onSeek: (time) => state.seeks.push(time),
    onError: (error) => (state.error = error.message),
  });
  context.after(() => track.close());
  state.track = track;
  state.to = async (now) => {
    state.now = now;
    track.look();
    await new Promise((resolve) => setImmediate(resolve)); // what is read is there
    track.look();
    return state.given.splice(0).join("");
  };
  return state;
}
const said = (message, time) => ({ message, type: "chat.said", time, epoch: 0, date: "", data: null });

test("messages come when the player comes to them, once", async (context) => {
  const state = messageTrack(context, [said("a", 1), said("b", 2), said("c", 2), said("d", 3.5), said("e", 58), said("f", 61)]);
  assert.equal(await state.to(NaN), "");
  assert.deepEqual(state.reads, []);
  assert.equal(await state.to(0), "");
  assert.equal(await state.to(1), "a");
  assert.equal(await state.to(3), "bc");
  state.hear(said("d", 3.5)); // read already
  state.hear(said("g", 3.2));
  assert.equal(await state.to(4), "gd");
  state.hear(said("h", 1)); // its sender was a little behind
  assert.equal(await state.to(4.2), "h");
  assert.deepEqual(state.reads, [[0, 60, null], [0, 60, "2"], [0, 60, "4"]]);
  for (let now = 5; now < 57; now += 2) assert.equal(await state.to(now), "");
  assert.equal(await state.to(58), "e");
  assert.equal(await state.to(62), "f", "what is read while it is played");
  assert.deepEqual(state.seeks, []);
});

test("a player that is moved gets the messages of that place again", async (context) => {
  const stored = [said("a", 1), said("b", 30), said("c", 500)];
  const state = messageTrack(context, stored);
  assert.equal(await state.to(0), "");
  assert.equal(await state.to(1), "a");
  assert.equal(await state.to(0.5), "");
  assert.equal(await state.to(1), "a", "again");
  assert.equal(await state.to(499), "");
  assert.equal(await state.to(500), "c");
  assert.deepEqual(state.seeks, [0.5, 499]);
  state.hear(said("old", 400)); // of someone who has gone back
  assert.equal(await state.to(500.1), "");
  assert.equal(await state.to(29), "");
  assert.equal(await state.to(30), "b");
});

test("a fault of the server is told, and read again later", async (context) => {
  const state = messageTrack(context, [said("a", 1)], { fails: (number) => number === 1 });
  const now = context.mock.method(Date, "now");
  now.mock.mockImplementation(() => 1_000_000);
  assert.equal(await state.to(0), "");
  assert.equal(state.error, "away");
  assert.equal(await state.to(1), "");
  assert.equal(state.reads.length, 1);
  now.mock.mockImplementation(() => 1_004_001);
  assert.equal(await state.to(1), "a");
  state.gap(); // events are missing
  assert.equal(await state.to(1.1), "");
  assert.equal(state.reads.length, 3);
  state.track.close();
  assert.equal(state.left, true);
  assert.equal(await state.to(1.2), "");
});

test("a message is pushed with its time, and read by time", async (context) => {
  const receipt = { message: "m", type: "chat.said", time: 3.25, epoch: 0, date: "d", duplicate: false };
  const server = await serve(context, { fault: ({ method }) => (method === "POST" ? [201, {}, JSON.stringify(receipt)] : [200, {}, '{"messages":[],"next":null}']) });
  const live = new Live(new Gridcast({ url: server.url }));
  assert.deepEqual(await live.pushMessage("s1", "chat.said", { text: "x" }, { at: 3.25 }), receipt);
  await live.pushMessage("s1", "chat.said", null, { id: "mine" });
  assert.deepEqual(await live.messages("s1", { from: 1e-9, to: 60, after: "5-1", limit: 7 }), { messages: [], next: null });
  const [first, second, third] = server.seen;
  assert.deepEqual(JSON.parse(first.body), { type: "chat.said", data: { text: "x" }, at: 3.25 });
  assert.deepEqual(JSON.parse(second.body), { type: "chat.said", data: null, id: "mine" });
  assert.deepEqual([first.url, third.url], ["/live/s1/messages", "/live/s1/messages?from=0.000&to=60.000&after=5-1&limit=7"]);
});
