// A browser around the recipe of docs/messages.md, which the test puts beside this file as recipe.mjs: what a page would have around it,
// and a way to be told what to do.
//
// node rxjs_client.mjs ADDRESS HEARTBEAT. A line on stdin is one of {"next": VALUE}, {"listen": TOPIC, "name": NAME}, {"leave": NAME},
// where the name is the topic if it is missing; a line on stdout is one of {"frame": FRAME}, {"topic": TOPIC, "frame": FRAME}, {"opened": NUMBER}, {"closed": CODE}, {"again": true}, {"completed": true}.
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
globalThis.heartbeat = Number(process.argv[3]);
globalThis.readStateAgain = () => say({ again: true });

const { frames, topic, send } = await import("./recipe.mjs");
const listening = new Map();
frames.subscribe({ next: (frame) => say({ frame }), complete: () => say({ completed: true }) });

for await (const line of createInterface({ input: process.stdin })) {
  const { next, listen, name = listen, leave } = JSON.parse(line);
  if (listen) listening.set(name, topic(listen).subscribe((frame) => say({ topic: listen, frame })));
  else if (leave) listening.get(leave).unsubscribe();
  else send(next);
}
process.exit();
