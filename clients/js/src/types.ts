// The values of this client and of the server, as docs/http-api.md and docs/messages.md describe them. Types only: no module at run time.

/** One stored file. */
export interface FileInfo {
  /** Stays when the file is replaced. */
  id: string;
  /** Empty, or segments joined by "/". */
  folder: string;
  filename: string;
  /** Bytes. */
  length: number;
  content_type: string;
  /** Lower-case hex, null where the store has none. */
  sha256: string | null;
  /** Strong entity tag with its quotes. */
  etag: string;
  /** ISO 8601, UTC. */
  uploaded_at: string;
  metadata: Record<string, unknown>;
  /** Entity tag of its poster, null where it has none. */
  poster: string | null;
  /** Counts the changes of this name and never falls: of two descriptions the one with the greater revision is the newer. */
  revision: number;
  /** The subject of the token with which this version was uploaded, null without one. */
  owner: string | null;
}

/** What names a file: a FileInfo is one. */
export interface FileName {
  folder?: string;
  filename: string;
}

export interface FilePage {
  files: FileInfo[];
  /** `after` of the next page, null at the end. */
  next: string | null;
}

/** What became of one file of `removeAll`. */
export interface RemoveResult {
  folder: string;
  filename: string;
  /** 204, or the status with which its removal was refused. */
  status: number;
  detail: string | null;
}

export interface FolderPage {
  folders: string[];
  /** Of these folders in the same order, not counting folders below them; null where they were not asked for. */
  totals: { folder: string; files: number; bytes: number }[] | null;
  next: string | null;
}

export interface ListOptions {
  /** Files of this folder alone; empty: those in none; missing: all. */
  folder?: string | undefined;
  /** What the filename contains, in any case. */
  search?: string | undefined;
  /** `next` of the page before. */
  after?: string | null | undefined;
  /** Entries of a page, at most 200. */
  limit?: number | undefined;
  /** With `-` from the newest, last or largest on; `-time` if missing. */
  sort?: "time" | "-time" | "name" | "-name" | "size" | "-size" | undefined;
  signal?: AbortSignal | undefined;
}

/** The data of `file.progress`. */
export interface Progress {
  filename: string;
  /** Bytes. */
  received: number;
  /** Bytes; null while the length is not known. */
  total: number | null;
  /** Bytes per second. */
  rate: number;
  state: "receiving" | "verifying" | "stored" | "failed";
}

/** The data of `file.playable`. */
export interface Playable {
  filename: string;
  /** Bytes; null while the length is not known. */
  total: number | null;
  /** As the first bytes say it. */
  content_type: string;
  layout: "index-first" | "fragmented" | "webm" | "sequential" | "index-last";
  playable: boolean;
  /** Why it is not playable. */
  reason: string | null;
  /** A path for a player, which needs no token; null where it is not playable. */
  address: string | null;
}

/** A CloudEvents 1.0 event. */
export interface CloudEvent<Data = unknown> {
  sequence: string;
  specversion: "1.0";
  id: string;
  source: string;
  type: string;
  time: string;
  /** Only where the event came by a topic. */
  topic?: string;
  data: Data;
}

/** The data of `file.moved`: the file under its new name. */
export interface MovedFile extends FileInfo {
  /** Null where it comes from another folder. */
  previous: { folder: string; filename: string; revision: number } | null;
}

/** The data of the server's own events, by type. */
export interface EventData {
  "file.created": FileInfo;
  "file.replaced": FileInfo;
  "file.deleted": FileInfo;
  "file.restored": FileInfo;
  "file.described": FileInfo;
  "file.moved": MovedFile;
  "file.progress": Progress;
  "file.playable": Playable;
  "socket.expiring": { expires: string };
  "socket.resync": { reason: string };
}

/** The data of an event of type T: `unknown` for types of your own. */
export type DataOf<T extends string> = T extends keyof EventData ? EventData[T] : unknown;

/** The state of the connection that events come by. */
export interface ConnectionState {
  /** `waiting`: not connected, and will connect again; `closed`: will not. */
  state: "connecting" | "connected" | "waiting" | "closed";
  /** The address of this client, null before the first connection. */
  sid: string | null;
  /** Whether the session of the last connection was resumed. */
  recovered?: boolean;
  /** Why the last connection ended (docs/messages.md, "Why the server closes"). */
  code?: number;
  reason?: string;
  /** Milliseconds until the next attempt. */
  retryIn?: number;
}

/** Why the application must read its state again over HTTP. */
export interface Gap {
  reason: string;
}

export interface Subscription {
  /** Resolves when the server delivers the topic from then on; rejects if it refuses it, or if it was left before. */
  ready: Promise<void>;
  unsubscribe(): void;
}

/** One socket, as others see it. */
export interface SocketInfo {
  sid: string;
  /** away: disconnected, may still resume. */
  state: "online" | "away";
  /** The replica that has the connection; empty while away. */
  replica: string;
  /** Seconds since 1970. */
  since: number;
  left: number | null;
  topics: string[];
  meta: unknown;
}

export interface SocketPage {
  sockets: SocketInfo[];
  /** `after` of the next page, null at the end. */
  next: string | null;
}

/** An event to push. */
export interface PushMessage {
  type: string;
  data?: unknown;
  /** Makes a repeated push the same event. */
  id?: string | undefined;
}

/** What became of a push (docs/messages.md, "Receipts"). */
export interface Receipt {
  status: "sent" | "queued" | "delivered";
  id: string;
  sequence: string;
  duplicate: boolean;
}

/** One process of a service, as `GET /status` shows it. */
export interface ReplicaStatus {
  address: string;
  ready: boolean;
  /** Readiness checks by name: "ok", or what is wrong. */
  checks: Record<string, string>;
  /** null where the replica did not answer. */
  version: string | null;
  /** Seconds since it was started. */
  uptime: number | null;
  /** Live figures by name: counters since the start, and gauges. */
  figures: Record<string, number>;
}

export interface Status {
  gateway: ReplicaStatus;
  services: { service: string; ready: boolean; replicas: ReplicaStatus[] }[];
}

/** The token, or a function that returns it. `rejected`: the server refused the last one, or it ends soon; so do not return it from a cache. */
export type TokenSource =
  | string
  | ((state: { rejected: boolean }) => string | null | undefined | Promise<string | null | undefined>);

export type UploadState = "waiting" | "sending" | "retrying" | "paused" | "stored" | "failed" | "cancelled";

export interface UploadOptions {
  /** The name to store the file under; the file's own if missing. */
  filename?: string | undefined;
  folder?: string | undefined;
  contentType?: string | undefined;
  /** Kept with the file. */
  metadata?: Record<string, string> | undefined;
  /** Milliseconds since 1970: with it a Blob is known again after a reload, as a File is by its own. */
  lastModified?: number | undefined;
}

/** The state of an upload at one moment. */
export interface UploadSnapshot {
  folder: string;
  filename: string;
  state: UploadState;
  /** Bytes. */
  size: number;
  /** Bytes given to the network. */
  sent: number;
  /** Bytes that the server has confirmed: they are not sent again. */
  stored: number;
  /** Bytes per second. */
  rate: number;
  /** Seconds; null while the rate is not known. */
  secondsLeft: number | null;
  /** The last error, also while the upload is tried again. */
  error: Error | null;
}

/** What became of an upload. */
export interface UploadResult {
  folder: string;
  filename: string;
  size: number;
  /** null where an earlier request had stored the file. */
  etag: string | null;
}

/** An upload that was begun and not finished: it continues when the same file is added again. */
export interface UnfinishedUpload {
  folder: string;
  filename: string;
  size: number;
  /** Milliseconds since 1970. */
  lastModified: number;
  /** Milliseconds since 1970 until which the server keeps it. */
  expires: number;
}

/** Where unfinished uploads are remembered: `localStorage` is one. */
export type ResumeStorage = Pick<Storage, "getItem" | "setItem" | "removeItem" | "key" | "length">;

export interface ClientOptions {
  /** Where the gateway is, with a path if it has one there; the origin of the page if missing. */
  url?: string | URL | undefined;
  token?: TokenSource | undefined;
  /** Who uses this client: unfinished uploads of another account are not continued. The subject of the token if missing. */
  account?: string | undefined;
  /** Topics to subscribe to for as long as the client is connected. */
  topics?: string[] | undefined;
  /** What others see in the list of sockets; at most 1 KiB as JSON. */
  meta?: unknown;
  /** Uploads at the same time; 3 if missing. */
  concurrency?: number | undefined;
  /** Bytes of one request; the whole rest of the file if missing. For proxies that limit bodies. */
  chunkSize?: number | undefined;
  /** Milliseconds without progress after which an upload has failed; 10 minutes if missing. */
  giveUpAfter?: number | undefined;
  /** null: uploads do not continue after a reload. */
  storage?: ResumeStorage | null | undefined;
  /** Milliseconds between two pings; 20 s if missing. */
  heartbeat?: number | undefined;
  /** For Node before 22, which has no global WebSocket. */
  WebSocket?: typeof WebSocket | undefined;
}
