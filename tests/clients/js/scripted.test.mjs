// @gridcast/client against a server that answers as each test says: tokens, retries, ambiguous outcomes, limits. Run by node --test.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { Gridcast, GridcastError } from "@gridcast/client";
import { WebSocketServer } from "ws";

Math.random = () => 0.05; // the jitter of back-off: short waits

const SIZE = 600_000; // more than goes with a creation
const bytes = (size = SIZE) => new Blob([new Uint8Array(size).fill(7)]);

/**
 * A server for one test. `answer(request, body)` returns [status, headers, body], or null to cut the connection.
 */
async function serve(context, answer) {
  const seen = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    seen.push({ method: request.method, url: request.url, headers: request.headers, size: body.length, body: body.length < 10_000 ? String(body) : "", at: Date.now() });
    const answered = await answer(seen.at(-1), seen.length);
    if (!answered) return request.socket.destroy();
    const [status, headers = {}, text = ""] = answered;
    response.writeHead(status, headers).end(text);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  context.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, seen, server };
}

const problem = (status, detail, headers = {}) => [status, headers, JSON.stringify({ status, detail })];
const created = (offset = 0) => [201, { location: "/file/tus/u1", "upload-offset": offset, "upload-expires": new Date(Date.now() + 9e6).toUTCString() }];
const patched = (offset) => [204, { "upload-offset": offset, etag: '"e"' }];

/** A tus server that keeps the offset; `fault(request, number)` may answer in its place. */
function tusServer(context, size, fault = () => undefined) {
  let offset = null;
  return serve(context, (request, number) => {
    const answered = fault(request, number);
    if (answered !== undefined) return answered;
    if (request.method === "POST") {
      offset = request.size;
      return created(offset);
    }
    if (request.method === "HEAD") return [200, { "upload-offset": offset, "upload-length": size }];
    if (request.method === "DELETE") return [204];
    offset += request.size;
    return patched(offset);
  });
}

test("a token is asked for with every request, and once more on 401", async (context) => {
  const asked = [];
  const { url, seen } = await serve(context, ({ headers }) =>
    headers.authorization === "Bearer fresh" ? [200, {}, '{"files":[],"next":null}'] : problem(401, "expired"));
  const token = ({ rejected }) => (asked.push(rejected), rejected ? "fresh" : "stale");
  await new Gridcast({ url, token }).files.list();
  assert.deepEqual(asked, [false, true]);
  await assert.rejects(new Gridcast({ url, token: async () => "stale" }).files.list(), { status: 401, message: "expired" });
  assert.equal(seen.length, 4, "twice, and no more");
  seen.length = 0;
  await assert.rejects(new Gridcast({ url, token: "stale" }).files.list(), { status: 401 });
  assert.equal(seen.length, 1, "a text does not change");
});

test("a link uploads without a token, under the name that it says", async (context) => {
  const link = "v1.k/+.x";
  let offset = 0;
  const { url, seen } = await serve(context, ({ method, url: path, size }) => {
    if (method === "POST") return [201, { location: "/base/file/tus/u1?link=v1.k%2F%2B.x", "upload-offset": 0 }];
    return path.startsWith("/file/tus/u1?") ? (method === "DELETE" ? [204] : patched((offset += size))) : problem(404, path);
  });
  const { uploads } = new Gridcast({ url, token: "" });
  await uploads.add(bytes(), { filename: "mine.bin", folder: "other", link }).done;
  assert.deepEqual(seen.map((one) => [one.method, new URL(one.url, url).searchParams.get("link")]), [["POST", link], ["PATCH", link]]);
  assert.equal(offset, SIZE);
  assert.doesNotMatch(seen[0].headers["upload-metadata"] ?? "", /filename|folder/, "another name than the link's would be refused");
  assert.equal(seen[0].headers.authorization, undefined);
});

test("links are made, prolonged and revoked; their life is by the server's clock", async (context) => {
  const now = Date.UTC(2001, 0, 1);
  const date = { date: new Date(now).toUTCString() };
  const made = { id: "i/1", kind: "get", folder: "a b", filename: "é.mp4", expires_at: now / 1000 + 60, link: "v1.x", url: "/files/a%20b/%C3%A9.mp4?link=v1.x" };
  const { url, seen } = await serve(context, ({ method }) =>
    method === "POST" ? [201, date, JSON.stringify({ links: [made] })] : method === "PATCH" ? [200, date, JSON.stringify({ ...made, expires_at: now / 1000 + 90 })] : [204]);
  const { links } = new Gridcast({ url: `${url}/base/`, token: "t" });
  const [link] = await links.make([{ folder: "a b", filename: "é.mp4", expiresIn: 60, follow: true }]);
  assert.equal(link.life, 60);
  assert.equal(links.address(link), `${url}/base/files/a%20b/%C3%A9.mp4?link=v1.x`);
  const poster = new URL(links.posterAddress(link, '"p"'));
  assert.equal(poster.pathname, "/base/file/poster");
  assert.deepEqual(Object.fromEntries(poster.searchParams), { filename: "é.mp4", folder: "a b", etag: '"p"', link: "v1.x" });
  assert.equal((await links.prolong(link, { expiresIn: 90 })).life, 90);
  await links.revoke(link);
  assert.deepEqual(seen.map(({ method, url: path }) => `${method} ${path}`), ["POST /base/file/link", "PATCH /base/file/link/i%2F1", "DELETE /base/file/link/i%2F1"]);
  assert.deepEqual(JSON.parse(seen[0].body), { links: [{ folder: "a b", filename: "é.mp4", expires_in: 60, follow: true }] });
  assert.deepEqual(JSON.parse(seen[1].body), { link: "v1.x", expires_in: 90 });
});

test("each connection offers the token that the callback returns then", async (context) => {
  const offered = [];
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: (protocols) => (offered.push([...protocols]), "cloudevents.json") });
  context.after(() => server.close());
  let number = 0;
  server.on("connection", (socket) => {
    socket.send(JSON.stringify({ sid: "s", resume: `r${++number}`, sequence: "a-1", recovered: number > 1 }));
    if (number === 1) socket.close(1012, "service restart");
  });
  await new Promise((resolve) => server.on("listening", resolve));
  let tokens = 0;
  const { events } = new Gridcast({ url: `http://127.0.0.1:${server.address().port}`, token: () => `t${++tokens}`, WebSocket: (await import("ws")).WebSocket });
  const recovered = new Promise((resolve) => events.onState((state) => state.recovered && resolve(state)));
  events.connect();
  await recovered;
  events.close();
  assert.deepEqual(offered, [["cloudevents.json", "bearer.t1"], ["cloudevents.json", "bearer.t2"]]);
});

test("reads are repeated and hear Retry-After; what cannot succeed is not", async (context) => {
  const { url, seen } = await serve(context, (_, number) =>
    number === 1 ? problem(503, "away", { "retry-after": "1" }) : number === 2 ? null : [200, {}, '{"id":"i"}']);
  assert.equal((await new Gridcast({ url }).files.info({ filename: "a" })).id, "i");
  assert.equal(seen.length, 3);
  assert.ok(seen[1].at - seen[0].at >= 1000, "not before the server allows it");
  const gone = await serve(context, () => problem(404, "file not found", { "x-request-id": "q1" }));
  await assert.rejects(new Gridcast({ url: gone.url }).files.info({ filename: "a" }), (error) =>
    error instanceof GridcastError && error.status === 404 && error.requestId === "q1");
  assert.equal(gone.seen.length, 1);
  assert.ok(!gone.seen[0].headers.authorization);
});

test("a small file goes with the request that creates its upload, an empty one too", async (context) => {
  for (const size of [0, 1, 256 * 1024]) {
    const { url, seen } = await tusServer(context, size);
    const result = await new Gridcast({ url }).uploads.add(bytes(size), { filename: "ä b.txt", folder: "f", metadata: { title: "t" } }).done;
    assert.deepEqual(seen.map(({ method, size: sent }) => [method, sent]), [["POST", size]]);
    assert.equal(result.size, size);
    const pairs = seen[0].headers["upload-metadata"].split(",").map((pair) => pair.split(" "));
    const metadata = Object.fromEntries(pairs.map(([key, value]) => [key, Buffer.from(value, "base64").toString()]));
    assert.deepEqual(metadata, { title: "t", filename: "ä b.txt", folder: "f" });
  }
});

test("a lost response to a small upload is not a conflict", async (context) => {
  const digest = Buffer.from(await crypto.subtle.digest("SHA-256", await bytes(10).arrayBuffer())).toString("hex");
  const answers = [null, problem(409, "Not Unique: 'a' already exists"), [200, {}, JSON.stringify({ length: 10, sha256: digest })]];
  const lost = await serve(context, () => answers.shift());
  assert.equal((await new Gridcast({ url: lost.url }).uploads.add(bytes(10), { filename: "a" }).done).size, 10);
  assert.equal(lost.seen.at(-1).url, "/file/info?filename=a&folder=");

  const other = [null, problem(409, "Not Unique"), [200, {}, JSON.stringify({ length: 10, sha256: "0" })]];
  const conflict = await serve(context, () => other.shift());
  assert.deepEqual(await failure(new Gridcast({ url: conflict.url }).uploads.add(bytes(10), { filename: "a" })), [409, "Not Unique"]);
});

/** Resolves with status and text of the error of an upload that fails. */
const failure = (upload) => upload.done.then(() => assert.fail("it was stored"), ({ status, message }) => [status, message]);

test("a taken name fails at once, and so does what the server refuses", async (context) => {
  for (const [status, detail] of [[409, "Not Unique: 'a' already exists"], [413, "too large"], [403, "not yours"], [507, "no space"]]) {
    const { url, seen } = await serve(context, () => problem(status, detail));
    assert.deepEqual(await failure(new Gridcast({ url }).uploads.add(bytes(), { filename: "a" })), [status, detail]);
    assert.equal(seen.length, 1);
  }
});

test("locked, limited, cut and mismatched requests continue from the offset of the server", async (context) => {
  const faults = [undefined, null, undefined, problem(423, "locked"), undefined, problem(409, "the upload is at offset 0", { "upload-offset": "0" }),
    undefined, problem(429, "too many", { "retry-after": "1" }), problem(502, "away")];
  const { url, seen } = await tusServer(context, SIZE, (_, number) => faults[number - 1]);
  const result = await new Gridcast({ url }).uploads.add(bytes(), { filename: "a" }).done;
  assert.equal(result.etag, '"e"');
  assert.deepEqual(seen.map(({ method }) => method).join(" "), "POST PATCH HEAD PATCH HEAD PATCH HEAD PATCH HEAD HEAD PATCH");
  assert.ok(seen[8].at - seen[7].at >= 1000);
});

test("an upload that the server no longer has begins anew, though not when the file was stored and deleted", async (context) => {
  for (const status of [404, 410]) {
    const { url, seen } = await tusServer(context, SIZE, (_, number) => (number === 2 ? null : number === 3 ? [status] : undefined));
    const upload = new Gridcast({ url, chunkSize: 100_000 }).uploads.add(bytes(), { filename: "a" });
    await upload.done;
    assert.equal(seen.filter(({ method }) => method === "POST").length, 2);
  }
  const { url, seen } = await tusServer(context, SIZE, ({ method }) =>
    method === "PATCH" ? [503] : method === "HEAD" ? problem(410, "the file of this upload was deleted or replaced") : undefined);
  const upload = new Gridcast({ url }).uploads.add(bytes(), { filename: "a" });
  assert.equal((await failure(upload))[0], 410);
  assert.equal(seen.filter(({ method }) => method === "POST").length, 1);
});

test("a body is no longer than chunkSize", async (context) => {
  const { url, seen } = await tusServer(context, SIZE);
  await new Gridcast({ url, chunkSize: 250_000 }).uploads.add(bytes(), { filename: "a" }).done;
  assert.deepEqual(seen.map(({ size }) => size), [0, 250_000, 250_000, 100_000]);
});

test("uploads give up after a time without progress, and go on when asked to", async (context) => {
  let away = true;
  const { url } = await tusServer(context, SIZE, () => (away ? [503] : undefined));
  const upload = new Gridcast({ url, giveUpAfter: 300 }).uploads.add(bytes(), { filename: "a" });
  assert.equal((await failure(upload))[0], 503);
  away = false;
  upload.resume();
  await upload.done;
});

test("at most `concurrency` uploads at a time; a file that is being sent is not sent twice", async (context) => {
  let [active, most] = [0, 0];
  const { url, seen } = await serve(context, async () => {
    most = Math.max(most, ++active);
    await new Promise((resolve) => setTimeout(resolve, 20));
    active--;
    return created(10);
  });
  const { uploads } = new Gridcast({ url, concurrency: 2 });
  const names = ["a", "b", "c", "d", "e"];
  const all = names.map((filename) => uploads.add(bytes(10), { filename }));
  assert.equal(uploads.add(bytes(10), { filename: "a" }), all[0]);
  assert.equal(uploads.items.length, 5);
  await Promise.all(all.map(({ done }) => done));
  assert.equal(most, 2);
  assert.equal(seen.length, 5);
  assert.deepEqual(uploads.items, []);
});

test("pause stops the request, resume asks for the offset, cancel ends the upload on the server", async (context) => {
  let hold = true;
  const { url, seen, server } = await tusServer(context, SIZE, ({ method }) => (method === "PATCH" && hold ? new Promise(() => {}) : undefined));
  const { uploads } = new Gridcast({ url });
  const upload = uploads.add(bytes(), { filename: "a" });
  await until(() => seen.some(({ method }) => method === "PATCH"));
  const closed = new Promise((resolve) => server.getConnections((_, count) => resolve(count)));
  assert.ok((await closed) >= 1);
  upload.pause();
  assert.equal(upload.state, "paused");
  hold = false;
  upload.resume();
  await upload.done;
  assert.deepEqual(seen.map(({ method }) => method), ["POST", "PATCH", "HEAD", "PATCH"]);

  hold = true;
  seen.length = 0;
  const other = uploads.add(bytes(), { filename: "b" });
  await until(() => seen.some(({ method }) => method === "PATCH"));
  await other.cancel();
  await assert.rejects(other.done, { name: "AbortError" });
  assert.equal(other.state, "cancelled");
  assert.equal(seen.at(-1).method, "DELETE");
  assert.deepEqual(uploads.items, []);
});

async function until(condition) {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 5));
}

/** What localStorage is to a page. */
function storage() {
  const entries = new Map();
  return {
    getItem: (key) => entries.get(key) ?? null,
    setItem: (key, value) => void entries.set(key, value),
    removeItem: (key) => void entries.delete(key),
    key: (index) => [...entries.keys()][index] ?? null,
    get length() {
      return entries.size;
    },
  };
}

test("another account does not continue the upload of this one", async (context) => {
  let hold = true;
  const { url, seen } = await tusServer(context, SIZE, ({ method }) => (method === "PATCH" && hold ? new Promise(() => {}) : undefined));
  const jwt = (sub) => `e30.${Buffer.from(JSON.stringify({ sub })).toString("base64url")}.x`;
  const shared = { url, storage: storage() };
  const file = { filename: "a", lastModified: 5 };
  const mine = new Gridcast({ ...shared, token: jwt("me") });
  const upload = mine.uploads.add(bytes(), file);
  await until(() => seen.some(({ method }) => method === "PATCH"));
  upload.pause();
  assert.deepEqual((await mine.uploads.unfinished()).map(({ filename, size, lastModified }) => [filename, size, lastModified]), [["a", SIZE, 5]]);
  const theirs = new Gridcast({ ...shared, token: jwt("you") });
  assert.deepEqual(await theirs.uploads.unfinished(), []);
  hold = false;
  seen.length = 0;
  await theirs.uploads.add(bytes(), file).done;
  assert.equal(seen[0].method, "POST");
  seen.length = 0;
  await new Gridcast({ ...shared, token: jwt("me") }).uploads.add(bytes(), file).done;
  assert.equal(seen[0].method, "HEAD", "its own goes on");
  assert.deepEqual(await mine.uploads.unfinished(), []);
});

test("an unfinished upload can be given up without its file", async (context) => {
  const { url, seen } = await tusServer(context, SIZE, ({ method }) => (method === "PATCH" ? new Promise(() => {}) : undefined));
  const options = { url, storage: storage() };
  const { uploads } = new Gridcast(options);
  const upload = uploads.add(bytes(), { filename: "a" });
  await until(() => seen.some(({ method }) => method === "PATCH"));
  upload.pause();
  const later = new Gridcast(options);
  await later.uploads.discard((await later.uploads.unfinished())[0]);
  assert.deepEqual(await later.uploads.unfinished(), []);
  assert.equal(seen.at(-1).method, "DELETE");
});

test("an upload under a stored id that has another length begins anew", async (context) => {
  const { url, seen } = await tusServer(context, SIZE, ({ method }, number) =>
    number === 2 ? new Promise(() => {}) : method === "HEAD" && number === 3 ? [200, { "upload-offset": 5, "upload-length": 9 }] : undefined);
  const options = { url, storage: storage() };
  const first = new Gridcast(options).uploads.add(bytes(), { filename: "a" });
  await until(() => seen.length === 2);
  first.pause();
  await new Gridcast(options).uploads.add(bytes(), { filename: "a" }).done;
  assert.deepEqual(seen.map(({ method }) => method), ["POST", "PATCH", "HEAD", "POST", "PATCH"]);
});

test("lists are read page by page, and names are encoded", async (context) => {
  const { url, seen } = await serve(context, ({ url: asked }) => [200, {}, JSON.stringify(
    asked.includes("after=n1") ? { files: [{ id: "2" }], next: null } : { files: [{ id: "1" }], next: "n1" })]);
  const { files } = new Gridcast({ url: `${url}/` });
  const ids = [];
  for await (const { id } of files.all({ folder: "", search: "ä&b", limit: 1 })) ids.push(id);
  assert.deepEqual(ids, ["1", "2"]);
  assert.equal(seen[0].url, "/file?folder=&q=%C3%A4%26b&limit=1");
  assert.equal(files.address({ filename: "a?b", folder: "c/d" }), `${url}/file/stream?filename=a%3Fb&folder=c%2Fd`);
});

test("a path of the gateway's address is kept, and an absolute Location elsewhere is not followed", async (context) => {
  const { url, seen } = await serve(context, ({ method }) =>
    method === "POST" ? [201, { location: "https://elsewhere.example/file/tus/u1", "upload-offset": "0" }] : patched(SIZE));
  await new Gridcast({ url: `${url}/media`, token: "t" }).uploads.add(bytes(), { filename: "a" }).done;
  assert.deepEqual(seen.map(({ url: path }) => path), ["/media/file/tus", "/media/file/tus/u1"]);
});

test("files are moved, restored and removed together", async (context) => {
  const { url, seen } = await serve(context, ({ url: asked }) =>
    [200, {}, JSON.stringify(asked.startsWith("/file/delete") ? { results: [{ status: 204 }] } : { id: "i" })]);
  const { files } = new Gridcast({ url });
  const name = { folder: "a/b", filename: "c&d" };
  assert.equal((await files.move(name, { filename: "e" }, { ifMatch: '"1"' })).id, "i");
  assert.equal((await files.restore(name)).id, "i");
  assert.deepEqual(await files.removeAll([{ filename: "x", etag: '"2"' }, { ...name, id: "i" }]), [{ status: 204 }]);
  await files.list({ sort: "-size" });
  await files.folders({ totals: true });
  await files.folders();
  await files.setPoster(name, new Blob(["GIF89a"]), { ifMatch: '"1"' });
  await files.setPoster(name, null);
  assert.equal(files.posterAddress({ ...name, poster: '"p"' }), `${url}/file/poster?filename=c%26d&folder=a%2Fb&etag=%22p%22`);
  assert.equal(files.posterAddress({ filename: "x", poster: null }), `${url}/file/poster?filename=x&folder=`);
  assert.deepEqual(seen.map(({ method, url: asked }) => `${method} ${asked}`), [
    "PATCH /file?filename=c%26d&folder=a%2Fb",
    "POST /file/restore?filename=c%26d&folder=a%2Fb",
    "POST /file/delete",
    "GET /file?sort=-size",
    "GET /file/folders?totals=true",
    "GET /file/folders",
    "PUT /file/poster?filename=c%26d&folder=a%2Fb",
    "DELETE /file/poster?filename=c%26d&folder=a%2Fb",
  ]);
  assert.equal(seen[6].body, "GIF89a");
  assert.equal(seen[6].headers["if-match"], '"1"');
  assert.equal(seen[0].headers["if-match"], '"1"');
  assert.equal(seen[0].headers["content-type"], "application/json");
  assert.deepEqual(JSON.parse(seen[0].body), { filename: "e" });
  assert.deepEqual(JSON.parse(seen[2].body), {
    files: [{ folder: "", filename: "x", etag: '"2"' }, { folder: "a/b", filename: "c&d" }],
  });
});
