// The uploads of @gridcast/client on Node, told what to do by a test.
//
// node uploads.mjs URL STORAGE OPTIONS, where STORAGE is a file that plays localStorage: it outlives the process, as that outlives a
// page. A line on stdin is one of {"add": PATH, "folder": FOLDER, "filename": NAME}, {"pause": NAME}, {"resume": NAME},
// {"cancel": NAME}, {"unfinished": true}; a line on stdout is one of {"upload": SNAPSHOT, "error": TEXT}, {"unfinished": [...]},
// {"event": EVENT}.
import { existsSync, openAsBlob, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { createInterface } from "node:readline";
import { Gridcast } from "@gridcast/client";
import { WebSocket } from "ws";

const [url, file, options] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));
const entries = new Map(existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : []);
// A test kills this process at any moment; localStorage keeps each entry as a whole.
const save = () => {
  writeFileSync(`${file}.new`, JSON.stringify([...entries]));
  renameSync(`${file}.new`, file);
};
const storage = {
  getItem: (key) => entries.get(key) ?? null,
  setItem: (key, value) => (entries.set(key, value), save()),
  removeItem: (key) => (entries.delete(key), save()),
  key: (index) => [...entries.keys()][index] ?? null,
  get length() {
    return entries.size;
  },
};
const { uploads, events } = new Gridcast({ url, storage, WebSocket, ...JSON.parse(options) });
const byName = new Map();
events.on("file.progress", (event) => say({ event }));
events.onState(({ state }) => say({ connection: state }));
events.connect();

for await (const line of createInterface({ input: process.stdin })) {
  const { add, filename, folder, pause, resume, cancel, unfinished } = JSON.parse(line);
  if (add) {
    const name = filename ?? basename(add);
    const upload = uploads.add(await openAsBlob(add), { folder, filename: name, lastModified: statSync(add).mtimeMs });
    byName.set(name, upload);
    upload.onChange((snapshot) => say({ upload: snapshot, error: snapshot.error?.message }));
  } else if (pause) byName.get(pause).pause();
  else if (resume) byName.get(resume).resume();
  else if (cancel) await byName.get(cancel).cancel();
  else if (unfinished) say({ unfinished: await uploads.unfinished() });
}
process.exit();
