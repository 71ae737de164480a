// The page's client of events on Node, around gateway/page/events.js, which the test puts beside this file as events.mjs.
//
// node events_client.mjs HOST:PORT. A line on stdout is one of {"sid": SID}, {"state": TEXT}, {"event": EVENT}, {"fresh": true},
// {"pong": true}.
import { WebSocket } from "ws";

const say = (what) => console.log(JSON.stringify(what));
globalThis.WebSocket = class extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols);
    this.addEventListener("error", () => {}); // ws throws where there is no listener, as no browser does
    this.addEventListener("message", ({ data }) => JSON.parse(data).pong && say({ pong: true }));
  }
};
globalThis.location = { protocol: "http:", host: process.argv[2] };

const { Events } = await import("./events.mjs");
const events = new Events();
events.addEventListener("state", ({ detail }) => say({ state: detail, sid: events.sid }));
events.addEventListener("message", ({ detail }) => say({ event: detail }));
events.addEventListener("fresh", () => say({ fresh: true }));
events.open();
process.stdin.on("end", () => process.exit()).resume();
