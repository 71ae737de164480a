// A browser's client with RxJS: webSocket in a defer, so that each attempt has its own address; retry for connections that break,
// repeat for those that were closed with a word. `resume` and `after` are all that it keeps.
//
// node rxjs_client.mjs ADDRESS. A line on stdin is one of {"next": VALUE}, {"listen": TOPIC}, {"leave": TOPIC}; a line on stdout
// is one of {"frame": FRAME}, {"topic": TOPIC, "frame": FRAME}, {"opened": NUMBER}, {"closed": CODE, "clean": BOOLEAN}.
import { createInterface } from "node:readline";
import { defer, repeat, retry } from "rxjs";
import { webSocket } from "rxjs/webSocket";
import { WebSocket } from "ws";

const DELAY = 150;
const say = (what) => console.log(JSON.stringify(what));
const listening = new Map();
let subject, resume, after, opened = 0;

const frames = defer(() => {
  const url = new URL(process.argv[2]);
  if (resume) url.searchParams.set("resume", resume);
  if (after) url.searchParams.set("after", after);
  subject = webSocket({
    url: url.href,
    WebSocketCtor: WebSocket,
    openObserver: { next: () => say({ opened: ++opened }) },
    closeObserver: { next: (event) => say({ closed: event.code, clean: event.wasClean }) },
  });
  return subject;
});

frames.pipe(retry({ delay: DELAY }), repeat({ delay: DELAY })).subscribe((frame) => {
  if (frame.resume) resume = frame.resume;
  if (frame.sequence) after = frame.sequence;
  say({ frame });
});

for await (const line of createInterface({ input: process.stdin })) {
  const { next, listen, leave } = JSON.parse(line);
  if (listen) {
    const heard = subject.multiplex(
      () => ({ type: "subscribe", topic: listen }),
      () => ({ type: "unsubscribe", topic: listen }),
      (frame) => frame.specversion !== undefined && frame.topic === listen,
    );
    listening.set(listen, heard.subscribe((frame) => say({ topic: listen, frame })));
  } else if (leave) {
    listening.get(leave).unsubscribe();
  } else {
    subject.next(next);
  }
}
process.exit();
