// Everything that is known of one file, at the side: digest, addresses, as curl; download and delete.
import { currentToken, files } from "./app.js";
import { copy, toast } from "./dialogs.js";
import { askForName } from "./move_dialog.js";
import { el } from "./dom.js";
import { clock, size, words } from "./format.js";
import { icon } from "./icons.js";
import { iconOf, kindOf } from "./kinds.js";
import { change, fileOf, pathAddress, pathOf } from "./router.js";
import { leadTo } from "./sources.js";
import { share } from "./share_dialog.js";

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** The command that downloads a file. A token stays out of it: it would be in the shell's history. */
export function asCurl(file) {
  const token = currentToken() ? ' -H "Authorization: Bearer $GRIDCAST_TOKEN"' : "";
  return `curl -fL${token} -o ${quote(file.filename)} ${quote(pathAddress(file))}`;
}

export class Details {
  #path = "";

  /** @param {{ remove: (file: object) => void }} actions */
  constructor({ remove }) {
    this.remove = remove;
    this.body = el("div", { class: "details-body" });
    this.title = el("h2", { id: "details-title" });
    const close = el("button", { class: "icon-button", "aria-label": "Close the details", onclick: () => this.element.close() }, icon("close"));
    this.element = el("dialog", { class: "details", "aria-labelledby": "details-title" }, el("header", {}, this.title, close), this.body);
    this.element.addEventListener("click", (event) => event.target === this.element && this.element.close());
    this.element.addEventListener("close", () => {
      const open = this.#path;
      this.#path = "";
      if (open) change({ info: null });
    });
    document.body.append(this.element);
  }

  /** Show the file of a path, or nothing where that is empty. */
  async show(path) {
    if ((path ?? "") === this.#path) return;
    this.#path = path ?? "";
    if (!path) {
      if (this.element.open) this.element.close();
      return;
    }
    this.title.textContent = fileOf(path).filename;
    this.body.replaceChildren(el("p", { class: "soft", role: "status", text: "Loading…" }));
    if (!this.element.open) this.element.showModal();
    try {
      const file = await files.info(fileOf(path));
      if (this.#path === path) this.#fill(file);
    } catch (error) {
      if (this.#path === path) this.body.replaceChildren(el("p", { class: "notice error", role: "alert", text: words(error) }));
    }
  }

  #fill(file) {
    const facts = file.media_facts ?? {};
    const curl = asCurl(file);
    const pairs = [
      ["Type", file.content_type],
      ["Size", `${size(file.length)} (${file.length.toLocaleString("en")} bytes)`],
      ["Folder", file.folder || "none"],
      ["Stored", new Date(file.uploaded_at).toLocaleString()],
      ["Length", facts.duration ? clock(facts.duration) : null],
      ["Picture", facts.width && facts.height ? `${facts.width} × ${facts.height}${facts.rotation ? `, turned by ${facts.rotation}°` : ""}` : null],
      ["Codecs", facts.codecs?.join(", ")],
      ...Object.entries(facts.tags ?? {}).map(([key, value]) => [key[0].toUpperCase() + key.slice(1), String(value)]),
      ...Object.entries(file.metadata ?? {}).map(([key, value]) => [key, String(value)]),
    ];
    const copied = [
      ["Address", pathAddress(file)],
      ["SHA-256", file.sha256],
      ["ETag", file.etag],
      ["Id", file.id],
      ["curl command", curl],
    ];
    const rows = pairs.filter(([, value]) => value).map(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]);
    const lines = copied
      .filter(([, value]) => value)
      .map(([name, value]) => el("div", { class: "copied" }, el("span", { class: "small soft", text: name }), el("code", { text: value }), el("button", { class: "icon-button", "aria-label": `Copy ${name}`, title: "Copy", onclick: () => copy(value, name) }, icon("copy"))));
    this.body.replaceChildren(
      el("div", { class: "details-kind" }, icon(iconOf(kindOf(file)))),
      el(
        "div",
        { class: "details-acts" },
        el("button", { class: "button primary small", onclick: () => change({ play: pathOf(file), info: null }) }, icon("play"), "Open"),
        this.#anchor(file, { download: file.filename }, "download", "Download"),
        this.#anchor(file, { target: "_blank", rel: "noopener" }, "tab", "New tab"),
        el("button", { class: "button small", onclick: () => share(file) }, icon("share"), "Share"),
        el("button", { class: "button small", onclick: () => this.#move(file) }, icon("folder"), "Move"),
        el("button", { class: "button small danger", onclick: () => this.#remove(file) }, icon("trash"), "Delete"),
      ),
      el("dl", {}, rows.flat()),
      ...lines,
    );
  }

  #anchor(file, properties, name, text) {
    const anchor = el("a", { class: "button small", href: files.address(file), ...properties }, icon(name), text);
    leadTo(anchor, () => file, (error) => this.#fail(error));
    return anchor;
  }

  #fail(error) {
    this.body.prepend(el("p", { class: "notice error", role: "alert", text: words(error) }));
  }

  async #move(file) {
    const moved = await askForName(file);
    if (!moved) return;
    const undo = async () => {
      try {
        await files.move(moved, { folder: file.folder, filename: file.filename });
        if (this.#path === pathOf(moved)) change({ info: pathOf(file) }, { replace: true });
      } catch (error) {
        toast(words(error), { error: true });
      }
    };
    toast(`Moved to ${pathOf(moved)}.`, { action: { label: "Undo", run: () => void undo() } });
    change({ info: pathOf(moved) }, { replace: true });
  }

  #remove(file) {
    this.element.close();
    void this.remove(file);
  }
}
