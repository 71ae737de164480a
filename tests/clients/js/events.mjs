// The events of @gridcast/client on Node, told what to do by a test.
//
// node events.mjs ENTRY URL HEARTBEAT [TOKENS], where ENTRY is "core" or "rxjs", TOKENS a JSON list: the next one is taken whenever the client
// asks for another, and {"rejected": BOOLEAN} is said. A line on stdin is one of {"listen": TOPIC, "name": NAME},
// {"leave": NAME}, {"close": true}, {"connect": true}; a line on stdout is one of {"state": STATE}, {"event": EVENT},
// {"topic": TOPIC, "name": NAME, "data": DATA}, {"ready": TOPIC}, {"refused": TOPIC}, {"gap": REASON}, {"frame": FRAME} for what is no event.
import { createInterface } from "node:readline";
import { Gridcast } from "@gridcast/client";
import { webSocket } from "@gridcast/client/rxjs";
import { WebSocket } from "ws";

const [entry, url, heartbeat, tokens] = process.argv.slice(2);
const say = (what) => console.log(JSON.stringify(what));

class HeardWebSocket extends WebSocket {
  constructor(...address) {
    super(...address);
    this.addEventListener("message", ({ data }) => {
      const frame = JSON.parse(data);
      if (!frame.specversion) say({ frame });
    });
  }
}

const unused = tokens && JSON.parse(tokens);
const token = tokens && (({ rejected }) => {
  say({ rejected });
  if (rejected && unused.length > 1) unused.shift();
  return unused[0];
});
const client = new Gridcast({ url, token, heartbeat: Number(heartbeat), WebSocket: HeardWebSocket });
const left = new Map();
let connect, close, listen;

if (entry === "rxjs") {
  const { events$, state$, gaps$, topic } = webSocket(client);
  const all = [];
  connect = () => all.push(state$.subscribe((state) => say({ state })), gaps$.subscribe(({ reason }) => say({ gap: reason })), events$.subscribe((event) => say({ event })));
  close = () => all.forEach((subscription) => subscription.unsubscribe());
  listen = (name, heard, refused) => {
    const subscription = topic(name).subscribe({ next: heard, error: refused });
    return () => subscription.unsubscribe();
  };
} else {
  const { events } = client;
  events.onState((state) => say({ state }));
  events.onGap(({ reason }) => say({ gap: reason }));
  events.onEvent((event) => say({ event }));
  connect = () => events.connect();
  close = () => events.close();
  listen = (name, heard, refused) => {
    const { ready, unsubscribe } = events.subscribe(name, heard);
    ready.catch(refused);
    return unsubscribe;
  };
}
connect();

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  const { listen: topic, name = topic, leave } = command;
  if (topic) left.set(name, listen(topic, ({ data }) => say({ topic, name, data }), (error) => say({ refused: topic, detail: error.message })));
  else if (leave) left.get(leave)();
  else if (command.close) close();
  else if (command.connect) connect();
}
process.exit();
