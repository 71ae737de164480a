// The view of live streams: which there are, one to watch, and the studio that sends one.
import { applyEvent } from "/client/live.js";
import { currentToken, events, tokenListeners } from "./app.js";
import { confirm, copy, toast } from "./dialogs.js";
import { el, setText } from "./dom.js";
import { empty } from "./files_view.js";
import { clock, count, moment, size, span, words } from "./format.js";
import { icon } from "./icons.js";
import { LiveMessages } from "./live_messages.js";
import { LivePlayer } from "./live_player.js";
import { live, LiveStudio } from "./live_studio.js";
import { link, pathOf } from "./router.js";

const INTERVAL = 4_000; // milliseconds
const PAGE = 50;
const STATES = { waiting: ["busy", "Waiting"], live: ["good", "Live"], interrupted: ["busy", "Interrupted"], ended: ["", "Ended"] };
const RANK = ["live", "interrupted", "waiting", "ended"];
const nameOf = ({ title, filename }) => title || filename;

/** What viewers of a state see: colour and text. */
export const stateOf = ({ state }) => STATES[state] ?? ["", state];

export class LiveView {
  #shown = false;
  #timer;
  #reading = false;
  #rows = new Map();
  #topics = new Map(); // by id: what ends hearing of a stream that is listed
  #viewers = new Map(); // by id: the lists of the server have no numbers
  #watched = null; // the state of the stream that is watched
  #id = "";
  #unwatch = () => {};
  #unwatchOwn = () => {};
  #own = "";
  #pages = 1;

  constructor() {
    this.studio = new LiveStudio({ changed: () => this.#studioChanged() });
    this.player = new LivePlayer();
    this.messages = new LiveMessages(this.player.video);
    this.player.over.append(this.messages.list);
    this.go = el("button", { class: "button primary", onclick: () => this.studio.open() }, icon("video"), "Go live");
    this.state = el("div");
    this.list = el("ul", { class: "live-list" });
    this.more = el("button", { class: "button small", hidden: true, text: "Show more", onclick: () => (this.#pages++, this.#read()) });
    this.streams = el("section", { class: "card", "aria-labelledby": "streams-title" }, el("h2", { id: "streams-title", text: "Streams" }), this.state, this.list, this.more);
    this.watchTitle = el("h2", { id: "watch-title" });
    this.watchState = el("span", { class: "chip" }, el("span", { class: "dot" }), el("span"));
    this.watchViewers = el("span", { class: "chip" });
    this.watchMeta = el("p", { class: "small soft" });
    this.watchFailed = el("p", { class: "notice error", role: "alert", hidden: true });
    this.watchActs = el("div", { class: "live-acts" });
    const close = el("a", { class: "icon-button", href: link("live"), "aria-label": "Close", title: "Close" }, icon("close"));
    this.watch = el("section", { class: "card watch", "aria-labelledby": "watch-title", hidden: true }, el("div", { class: "watch-head" }, this.watchTitle, this.watchState, this.watchViewers, close), this.watchFailed, this.player.element, this.messages.form, this.watchMeta, this.watchActs);
    this.element = el("section", { class: "view live" }, el("div", { class: "view-head" }, el("h1", { text: "Live" }), this.go), this.studio.element, this.watch, this.streams);
    tokenListeners.add(() => this.#shown && (this.#reopen(), this.#read()));
    document.addEventListener("visibilitychange", () => this.#schedule(0));
  }

  show({ folder: id }) {
    this.#shown = true;
    document.title = "Live · Gridcast";
    if (id !== this.#id) this.#open(id);
    else if (this.#watched) this.#titlePage();
    void this.#read();
  }

  hide() {
    this.#shown = false;
    clearTimeout(this.#timer);
    this.#open("");
    this.#hear([]);
  }

  // Watching.

  #open(id) {
    this.#unwatch();
    this.#unwatch = () => {};
    this.player.close();
    this.messages.close();
    this.#id = id;
    this.#watched = null;
    this.watch.hidden = !id;
    this.watchFailed.hidden = true;
    if (!id) return;
    this.watchActs.replaceChildren();
    for (const part of [this.watchTitle, this.watchMeta]) setText(part, "");
    this.watchState.hidden = this.watchViewers.hidden = true;
    this.player.element.hidden = false;
    scrollTo(0, 0);
    this.#unwatch = live.watch(
      id,
      (state) => id === this.#id && this.#watching(state),
      (error) => id === this.#id && this.#cannotWatch(words(error)),
    );
  }

  #reopen() {
    const id = this.#id;
    this.#open("");
    this.#open(id);
  }

  #cannotWatch(text) {
    if (this.#watched) return; // it plays, and events come again by themselves
    this.player.close();
    this.messages.close();
    this.player.element.hidden = true;
    setText(this.watchTitle, "This stream cannot be watched");
    setText(this.watchFailed, text);
    this.watchFailed.hidden = false;
  }

  #watching(state) {
    if (state === null) {
      this.#watched = null;
      this.watchActs.replaceChildren();
      return this.#cannotWatch("This stream is not there any more: it was discarded, or its address is wrong.");
    }
    const before = this.#watched;
    this.#watched = state;
    this.#play(state);
    this.player.update(state, before);
    this.messages.update(state);
    setText(this.watchTitle, nameOf(state));
    this.#titlePage();
    const [colour, text] = stateOf(state);
    this.watchState.firstElementChild.className = `dot ${colour}`;
    setText(this.watchState.lastElementChild, text);
    this.watchViewers.hidden = state.state === "ended" || state.viewers === undefined;
    this.watchState.hidden = false;
    setText(this.watchViewers, count(state.viewers ?? 0, "viewer"));
    const size_ = state.width && state.height ? `${state.width} × ${state.height}` : "";
    setText(this.watchMeta, [state.folder, size_, state.codecs?.join(", "), state.started_at ? `since ${moment(new Date(state.started_at))}` : ""].filter(Boolean).join(" · "));
    if (before?.state !== state.state) this.#showActs(state);
    return undefined;
  }

  /** Open the player once there is something to play. */
  #play(state) {
    if (this.player.isOpen) return;
    if (state.state === "waiting") this.player.say("Waits for the first seconds of the stream…");
    else if (state.state === "ended" && !state.file) this.player.say("Nothing was recorded of this stream.");
    else {
      this.player.open(live.playlistAddress(state), { ended: state.state === "ended" });
      this.messages.open(state.id, () => this.player.position);
    }
  }

  #titlePage() {
    document.title = `${nameOf(this.#watched)} · Live · Gridcast`;
  }

  #showActs(state) {
    const address = live.playlistAddress(state);
    const token = currentToken() ? ` -headers 'Authorization: Bearer '"$GRIDCAST_TOKEN"` : "";
    const command = `ffmpeg${token} -i '${address}' -c copy 'recording.mp4'`;
    const { file } = state;
    this.watchActs.replaceChildren(
      el("button", { class: "button small", onclick: () => copy(address, "Playlist address") }, icon("copy"), "Copy the playlist address"),
      el("button", { class: "button small", onclick: () => copy(command, "Command"), title: "Records the stream from its start on" }, icon("copy"), "Copy as ffmpeg"),
      ...(state.state === "ended"
        ? file
          ? [el("a", { class: "button small", href: link("files", file.folder, { play: pathOf(file) }) }, icon("files"), "Open the file")]
          : []
        : [el("button", { class: "button small", onclick: () => this.#end(state) }, icon("stop"), "End"), el("button", { class: "button small danger", onclick: () => this.#discard(state) }, icon("trash"), "Discard")]),
    );
  }

  // The list.

  #schedule(milliseconds) {
    clearTimeout(this.#timer);
    if (this.#shown && !document.hidden) this.#timer = setTimeout(() => this.#read(), milliseconds);
  }

  async #read() {
    if (this.#reading) return;
    this.#reading = true;
    try {
      const found = [];
      let after = null;
      for (let page = 0; page < this.#pages; page++) {
        const answer = await live.list({ after, limit: PAGE });
        found.push(...answer.streams);
        after = answer.next ?? null;
        if (after === null) break;
      }
      this.more.hidden = after === null;
      this.#show(found);
    } catch (error) {
      this.list.replaceChildren();
      this.#rows.clear();
      this.state.replaceChildren(el("p", { class: "notice error", role: "alert", text: words(error) }));
    }
    this.#reading = false;
    this.#schedule(INTERVAL);
  }

  #show(found) {
    this.state.replaceChildren(...(found.length ? [] : [empty("live", "No live streams", "Start from your camera or screen, or send with ffmpeg. Viewers can go back to the start at any time, and the recording is a file as soon as the live ends.")]));
    found.sort((one, other) => RANK.indexOf(one.state) - RANK.indexOf(other.state) || other.created_at.localeCompare(one.created_at));
    this.#hear(found.map(({ id }) => id));
    const rows = new Map(found.map((stream) => [stream.id, this.#rows.get(stream.id) ?? this.#row(stream)]));
    for (const [id, row] of this.#rows) if (!rows.has(id)) row.remove();
    let cursor = this.list.firstElementChild;
    for (const stream of found) {
      const row = rows.get(stream.id);
      this.#update(row, stream);
      if (row === cursor) cursor = cursor.nextElementSibling;
      else this.list.insertBefore(row, cursor);
    }
    this.#rows = rows;
  }

  /** Listen to the topics of these streams, and to no others. */
  #hear(ids) {
    for (const [id, leave] of this.#topics) {
      if (ids.includes(id)) continue;
      leave();
      this.#topics.delete(id);
      this.#viewers.delete(id);
    }
    if (!this.#shown) return;
    for (const id of ids) {
      if (this.#topics.has(id)) continue;
      const { unsubscribe } = events.subscribe(`live/${id}`, (event) => {
        const row = this.#rows.get(id);
        if (event.type === "live.viewers") this.#viewers.set(id, event.data.viewers);
        if (row) this.#update(row, applyEvent(row.stream, event));
      });
      this.#topics.set(id, unsubscribe);
    }
  }

  #row({ id }) {
    const button = (name, act) => el("button", { class: "icon-button", data: { act: name }, onclick: () => act(this.#rows.get(id).stream) }, icon(name));
    const name = el("a", { class: "live-name", href: link("live", id) });
    const acts = el("span", { class: "live-row-acts" }, button("copy", (stream) => copy(live.playlistAddress(stream), "Playlist address")), button("stop", (stream) => this.#end(stream)), button("trash", (stream) => this.#discard(stream)));
    return el("li", { class: "live-row", data: { id } }, el("span", { class: "dot" }), el("div", { class: "live-text" }, name, el("p", { class: "small soft" })), acts);
  }

  #update(row, stream) {
    row.stream = stream;
    const [colour, text] = stateOf(stream);
    row.querySelector(".dot").className = `dot ${colour}`;
    setText(row.querySelector(".live-name"), nameOf(stream));
    const { state, duration, bytes, folder } = stream;
    const viewers = stream.viewers ?? this.#viewers.get(stream.id);
    const when = state === "ended" && stream.ended_at ? `ended ${span((Date.now() - new Date(stream.ended_at)) / 1000)} ago` : text;
    setText(row.querySelector("p"), [when, viewers === undefined || state === "ended" ? "" : count(viewers, "viewer"), duration ? clock(duration) : "", duration ? size(bytes) : "", folder].filter(Boolean).join(" · "));
    const labels = { copy: "Copy the playlist address of", stop: "End", trash: "Discard" };
    for (const button of row.querySelectorAll("button")) {
      const label = labels[button.dataset.act];
      button.hidden = button.dataset.act !== "copy" && state === "ended";
      button.setAttribute("aria-label", `${label} ${nameOf(stream)}`);
      button.title = label.replace(/ of$/, "");
    }
  }

  // What can be done with a stream.

  async #end(stream) {
    if (!(await confirm(`End “${nameOf(stream)}”?`, "Its sender is stopped, and viewers see its end. What was sent is kept as a file.", "End the live"))) return;
    await this.#attempt(async () => {
      const { file } = await live.end(stream.id);
      if (!file) return toast("The live has ended before anything was recorded.");
      return toast("The live has ended, and is a file now.", { action: { label: "Open the file", run: () => (location.hash = link("files", file.folder, { play: pathOf(file) })) } });
    });
  }

  async #discard(stream) {
    if (!(await confirm(`Discard “${nameOf(stream)}”?`, "It ends for its viewers, and what was recorded is deleted. This cannot be undone.", "Discard"))) return;
    await this.#attempt(async () => {
      await live.remove(stream.id);
      toast("The live was discarded.");
      if (stream.id === this.#id) location.hash = link("live");
    });
  }

  async #attempt(action) {
    try {
      await action();
    } catch (error) {
      toast(error.status === 409 ? `${error.message}.` : words(error), { error: true });
    }
    void this.#read();
  }

  #studioChanged() {
    const own = this.studio.id;
    this.go.hidden = !this.studio.element.hidden;
    if (this.studio.element.hidden && this.element.contains(document.activeElement) === false && this.#shown) this.go.focus();
    if (own !== this.#own) {
      this.#unwatchOwn();
      this.#own = own;
      this.#unwatchOwn = own ? live.watch(own, (state) => state && this.studio.update(state)) : () => {};
      this.#schedule(0);
    }
    document.documentElement.dataset.air = String(this.studio.isOnAir);
  }
}
