// A browser around the recipe of docs/messages.md, which the test puts beside this file as recipe.mjs: what a page would have around it,
// and a way to be told what to do.
//
// node rxjs_client.mjs ADDRESS. A line on stdin is one of {"next": VALUE}, {"listen": TOPIC}, {"leave": TOPIC}; a line on stdout
// is one of {"frame": FRAME}, {"topic": TOPIC, "frame": FRAME}, {"opened": NUMBER}, {"closed": CODE}, {"again": true}.
import { createInterface } from "node:readline";
import { WebSocket } from "ws";

const say = (what) => console.log(JSON.stringify(what));
let opened = 0;

globalThis.WebSocket = class extends WebSocket {
  constructor(...address) {
    super(...address);
    this.addEventListener("open", () => say({ opened: ++opened }));
    this.addEventListener("close", (event) => say({ closed: event.code }));
  }
};
globalThis.base = process.argv[2].replace(/\/ws$/, "");
globalThis.backoff = 150;
globalThis.readStateAgain = () => say({ again: true });

const { frames, topic, send } = await import("./recipe.mjs");
const listening = new Map();
frames.subscribe((frame) => say({ frame }));

for await (const line of createInterface({ input: process.stdin })) {
  const { next, listen, leave } = JSON.parse(line);
  if (listen) listening.set(listen, topic(listen).subscribe((frame) => say({ topic: listen, frame })));
  else if (leave) listening.get(leave).unsubscribe();
  else send(next);
}
process.exit();
