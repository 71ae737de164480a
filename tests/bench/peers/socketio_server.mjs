// A socket.io replica as its documentation sets one up: WebSocket only, Redis adapter, no handlers.
// node socketio_server.mjs PORT REDIS_URL; it listens once it prints "ready".
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const [port, redis] = process.argv.slice(2);
const publisher = createClient({ url: redis });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer();
new Server(server, { transports: ["websocket"], adapter: createAdapter(publisher, subscriber) });
server.listen(Number(port), "127.0.0.1", 2048, () => console.log("ready"));
