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

/** A link to make. */
export interface LinkOptions extends FileName {
  /** get: reads the file, also its poster; put: uploads it once, by tus. `get` if missing. */
  kind?: "get" | "put" | undefined;
  /** Seconds, at most seven days; what the server is set to if missing, six hours by default. */
  expiresIn?: number | undefined;
  /** get: also reads versions that replace this one. */
  follow?: boolean | undefined;
  /** put: bytes. */
  maxSize?: number | undefined;
  /** put: accepted types, as `video/*`. */
  mediaTypes?: string[] | undefined;
}

/** A signed link. */
export interface FileLink {
  /** Prolongs and revokes it; no credential. */
  id: string;
  kind: "get" | "put";
  folder: string;
  filename: string;
  /** Seconds since 1970, by the server's clock. */
  expires_at: number;
  /** Seconds from the answer that it came with until its end. */
  life: number;
  /** The credential. */
  link: string;
  /** Address with the credential, relative to the gateway. */
  url: string;
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
  /** The path of an HLS list of the same bytes, which grows with the upload; null for other layouts than fragments. */
  list: string | null;
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
  "live.started": { codecs: string[]; width: number | null; height: number | null; playlist: string };
  "live.interrupted": { since: string };
  "live.resumed": { epoch: number };
  "live.warning": { kind: "gop" | "rate" | "limit" };
  "live.viewers": { viewers: number };
  "live.ended": { reason: string; file: LiveFile | null; files?: LiveFile[] };
  "live.message": LiveMessage & { id: string };
  /** To the sender: what of its stream is durable. */
  "live.received": { bytes: number; segment: number };
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
  /** The text of a signed link of kind `put`, in place of a token. It names the file and takes one upload. */
  link?: string | undefined;
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

/** The file that a stream has become. */
export interface LiveFile {
  folder: string;
  filename: string;
  revision: number;
  etag: string;
  /** Bytes. */
  length: number;
}

export interface LiveOptions {
  /** Empty or missing: none. */
  folder?: string | undefined;
  /** Of the file that the stream becomes; it ends in .mp4. */
  filename: string;
  title?: string | undefined;
  /** Seconds of a sliding list; the whole stream can be rewound where it is missing. */
  window?: number | undefined;
  /** Whether a second sender replaces the first one, instead of being refused. */
  takeover?: boolean | undefined;
  /** Seconds that the stream may be interrupted before it ends. */
  grace?: number | undefined;
  /** Seconds of a segment at most. */
  target?: number | undefined;
}

/** What a sender of a stream needs. */
export interface PublishTarget {
  id: string;
  publish_token: string;
  /** A path. */
  tus: string;
}

/** A stream that was made. Its addresses are paths. */
export interface LiveCreated extends PublishTarget {
  /** Takes one endless body of fragmented MP4. */
  media: string;
  /** Takes segments, each by a request of its own; the token is in it, for senders that cannot set a header. */
  objects: string;
  playlist: string;
  limits: LiveLimits;
  state: LiveState;
}

/** What a stream may have; it ends there, and its file is kept. */
export interface LiveLimits {
  bytes: number;
  /** Seconds of media. */
  duration: number;
  /** Bytes per second of media; null: any. */
  rate: number | null;
  /** Media is taken at this many times its own speed; null: as fast as it comes. */
  speed: number | null;
  /** When the publish token ends, ISO 8601. */
  token_expires_at: string;
}

/** `interrupted`: no bytes for a while; it goes on, or ends when its grace is over. */
export type LiveState = "waiting" | "live" | "interrupted" | "ended";

/** A stream, as viewers see it. */
export interface LiveInfo {
  id: string;
  state: LiveState;
  title: string;
  folder: string;
  filename: string;
  owner: string | null;
  /** As in RFC 6381, empty before the first segment; not in lists, as the next two. */
  codecs: string[];
  width: number | null;
  height: number | null;
  /** Seconds that can be played. */
  duration: number;
  bytes: number;
  segments: number;
  /** Where the server counts them; the event `live.viewers` has the present number. */
  viewers?: number;
  /** ISO 8601, UTC. */
  created_at: string;
  started_at: string | null;
  ended_at: string | null;
  /** Why it has ended, null before. */
  reason: string | null;
  /** A path. */
  playlist: string;
  window: number | null;
  takeover: boolean;
  grace: number;
  target: number;
  /** Since when it is interrupted; from the event alone. */
  since?: string | null;
  /** Once it has ended; null where nothing was recorded. */
  file?: LiveFile | null;
  /** All files that it has become so far: another one for each change of codec parameters; not in lists. */
  files?: LiveFile[];
}

export interface LiveEnded extends LiveInfo {
  file: LiveFile | null;
}

/** A time-coded message of a stream. */
export interface LiveMessage {
  /** Its id. */
  message: string;
  /** What its sender has called it. */
  type: string;
  /** Media time: seconds of the stream. */
  time: number;
  epoch: number;
  /** When the media of that time was captured: ISO 8601, UTC. */
  date: string;
  data: unknown;
}

/** Where a message that was pushed is kept. */
export interface MessageReceipt extends Omit<LiveMessage, "data"> {
  /** Whether this id was there before; then that one stays as it was. */
  duplicate: boolean;
}

/** Messages ordered by their time. */
export interface LiveMessagePage {
  messages: LiveMessage[];
  /** `after` of the next page, null at the end. */
  next: string | null;
}

export interface MessageTrackOptions {
  onMessage: (message: LiveMessage) => void;
  onSeek?: (time: number) => void;
  onError?: (error: Error) => void;
}

export interface LivePage {
  /** Without codecs, size of the picture and file. */
  streams: LiveInfo[];
  /** `after` of the next page, null at the end. */
  next: string | null;
}

export interface PublishOptions {
  mediaStream?: MediaStream | undefined;
  /** Bytes of one fragmented MP4, instead of a MediaStream. */
  source?: Blob | ReadableStream<Uint8Array<ArrayBuffer>> | AsyncIterable<Blob | Uint8Array<ArrayBuffer>> | undefined;
  /** Milliseconds of media in each blob of the recorder, 500 if missing. */
  timeslice?: number;
  videoBitsPerSecond?: number | undefined;
  audioBitsPerSecond?: number | undefined;
  /** Bytes of one request at most; 2 MiB if missing. */
  chunkSize?: number;
  /** Bytes that wait to be sent at most; 32 MiB if missing. */
  maxBuffered?: number;
  /** Milliseconds without anything from the recorder after which it counts as stalled; 5 s if missing. */
  stalledAfter?: number;
}

export type BroadcastState = "starting" | "sending" | "retrying" | "ending" | "ended" | "failed" | "cancelled";

/** The state of sending a stream at one moment. */
export interface BroadcastSnapshot {
  id: string;
  state: BroadcastState;
  /** The type that is recorded, null for a source. */
  type: string | null;
  /** Bytes that the recorder or the source has given. */
  produced: number;
  /** Bytes that the server has confirmed: they survive everything. */
  durable: number;
  /** Bytes that wait. */
  buffered: number;
  /** Milliseconds since the first byte. */
  elapsed: number;
  /** Sending is behind: the network is slower than the recorder. */
  behind: boolean;
  /** The buffer is full: nothing is recorded, or read, until half of it was sent. */
  paused: boolean;
  /** The recorder gives nothing any more: the page may be hidden, or the computer asleep. */
  stalled: boolean;
  /** The last error, also while it is tried again. */
  error: Error | null;
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
