/** @import { ClientOptions, CloudEvent, ConnectionState, DataOf, Gap, UploadOptions, UploadSnapshot } from "../types.js" */
/** @import { LiveInfo } from "../types.js" */
/** @import { Live } from "../live.js" */
/** @import { Events } from "../events.js" */
/** @import { Upload } from "../upload.js" */
import { distinctUntilChanged, Observable } from "rxjs";
import { Gridcast } from "../index.js";

/** How many subscribers hold a socket open. @type {WeakMap<Events, number>} */
const users = new WeakMap();

/**
 * Hold the socket open until the function that is returned is called.
 * @param {Events} events
 */
function hold(events) {
  const before = users.get(events) ?? 0;
  users.set(events, before + 1);
  if (before === 0) events.connect();
  return () => {
    const left = (users.get(events) ?? 1) - 1;
    users.set(events, left);
    if (left === 0) events.close();
  };
}

/**
 * What RxJS's `webSocket(url)` is for a socket that never breaks: one call, and observables that outlive every connection. The socket
 * is open while one of them has a subscriber; the session resumes when the next one comes within two minutes.
 * @param {ClientOptions | string | Gridcast} [gateway] the address of the gateway, options, or a client that exists already
 */
export function webSocket(gateway = {}) {
  const client = gateway instanceof Gridcast ? gateway : new Gridcast(typeof gateway === "string" ? { url: gateway } : gateway);
  const { events } = client;

  /**
   * @template T
   * @param {(emit: (value: T) => void, fail: (error: unknown) => void) => () => void} listen
   * @returns {Observable<T>}
   */
  const observe = (listen) =>
    new Observable((subscriber) => {
      const remove = listen(
        (value) => subscriber.next(value),
        (error) => subscriber.error(error),
      );
      const release = hold(events);
      return () => {
        remove();
        release();
      };
    });

  return {
    client,
    /** All events, of any type. @type {Observable<CloudEvent>} */
    events$: observe((emit) => events.onEvent(emit)),
    /** The state of the connection, beginning with the present one. @type {Observable<ConnectionState>} */
    state$: observe((emit) => {
      emit(events.state);
      return events.onState(emit);
    }),
    /** The sid of this client, again after each change. */
    sid$: observe((/** @type {(sid: string) => void} */ emit) =>
      events.onState(({ state, sid }) => void (state === "connected" && sid !== null && emit(sid))),
    ).pipe(distinctUntilChanged()),
    /** Emits whenever the state must be read again over HTTP, at the first connection too. @type {Observable<Gap>} */
    gaps$: observe((emit) => events.onGap(emit)),
    /**
     * The events of one type.
     * @template {string} T
     * @template [D=DataOf<T>]
     * @param {T} type
     * @returns {Observable<CloudEvent<D>>}
     */
    ofType: (type) => observe((emit) => events.on(type, emit)),
    /**
     * The events of a topic, which all its subscribers share; fails if the server refuses it.
     * @template [D=unknown]
     * @param {string} name
     * @returns {Observable<CloudEvent<D>>}
     */
    topic: (name) =>
      observe((emit, fail) => {
        const { ready, unsubscribe } = events.subscribe(name, emit);
        ready.catch(fail);
        return unsubscribe;
      }),
  };
}

/**
 * The states of an upload, beginning with the present one. Completes when the file is stored; fails with the error of an upload that
 * failed or was cancelled. Unsubscribing leaves the upload as it is.
 * @param {Upload} upload
 * @returns {Observable<UploadSnapshot>}
 */
export function uploadProgress(upload) {
  return new Observable((subscriber) => {
    /** @param {UploadSnapshot} snapshot */
    const emit = (snapshot) => {
      subscriber.next(snapshot);
      if (snapshot.state === "stored") subscriber.complete();
    };
    const remove = upload.onChange(emit);
    emit(upload.snapshot);
    upload.done.catch((error) => subscriber.error(error));
    return remove;
  });
}

/**
 * Upload a file when subscribed to, as `uploadProgress` shows it; unsubscribing before the end cancels the upload.
 * @param {Gridcast} client
 * @param {Blob} file
 * @param {UploadOptions} [options]
 * @returns {Observable<UploadSnapshot>}
 */
export function uploadFile(client, file, options) {
  return new Observable((subscriber) => {
    const upload = client.uploads.add(file, options);
    const subscription = uploadProgress(upload).subscribe(subscriber);
    return () => {
      subscription.unsubscribe();
      if (upload.state !== "failed") void upload.cancel();
    };
  });
}

/**
 * The states of a live stream, beginning with the present one. Completes when the stream has ended or was removed. The socket is open
 * while it has a subscriber.
 * @param {Live} live
 * @param {string} id
 * @returns {Observable<LiveInfo>}
 */
export function liveState(live, id) {
  return new Observable((subscriber) => {
    const release = hold(live.events);
    const stop = live.watch(
      id,
      (state) => {
        if (state) subscriber.next(state);
        if (!state || state.state === "ended") subscriber.complete();
      },
      (error) => subscriber.error(error),
    );
    return () => {
      stop();
      release();
    };
  });
}
