// Another process that pushes to every socket of the socket.io replicas: each line on stdin is the data of one broadcast.
// node socketio_emit.mjs REDIS_URL; it is connected once it prints "ready".
import { createInterface } from "node:readline";
import { Emitter } from "@socket.io/redis-emitter";
import { createClient } from "redis";

const client = createClient({ url: process.argv[2] });
await client.connect();
const emitter = new Emitter(client);
console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  emitter.emit("bench.tick", JSON.parse(line));
}
await client.close();
