// One file of the list, as a row or as a card.
import { el, setAttribute, setText } from "./dom.js";
import { clock, moment, size } from "./format.js";
import { icon } from "./icons.js";
import { factsLine, iconOf, kindOf } from "./kinds.js";
import { pathOf } from "./router.js";
import { leadTo } from "./sources.js";
import { showPicture } from "./thumbnails.js";

/**
 * @param {object} file
 * @param {{ open: (file: object) => void, details: (file: object) => void, remove: (file: object) => void,
 *   failed: (error: Error) => void, select: (file: object, event: Event) => void, address: (file: object) => string }} actions
 */
export function createRow(file, actions) {
  const row = el("li", { class: "file" });
  const current = () => row.file;
  const check = el("input", { class: "check", type: "checkbox", onclick: (event) => actions.select(current(), event) });
  const thumb = el("span", { class: "thumb" });
  const name = el("span", { class: "file-name" });
  const open = el("button", { class: "file-open", onclick: () => actions.open(current()) }, thumb, el("span", { class: "file-text" }, name, el("span", { class: "file-meta" })));
  const download = el("a", { class: "icon-button" }, icon("download"));
  leadTo(download, current, actions.failed);
  const remove = el("button", { class: "icon-button", onclick: () => actions.remove(current()) }, icon("trash"));
  const details = el("button", { class: "icon-button", onclick: () => actions.details(current()) }, icon("info"));
  row.append(
    el("label", { class: "file-check" }, check),
    open,
    el("span", { class: "file-facts" }),
    el("span", { class: "file-size" }),
    el("span", { class: "file-date" }),
    el("span", { class: "file-actions" }, download, remove, details),
  );
  row.file = file;
  return row;
}

/** Show the present state of a file; changes only what differs. */
export function updateRow(row, file, { selected, showFolder, length, index, grid, address }) {
  const find = (selector) => row.querySelector(selector);
  setAttribute(row, "aria-setsize", length);
  setAttribute(row, "aria-posinset", index + 1);
  setAttribute(row, "data-selected", selected ? "yes" : null);
  const check = find(".check");
  if (check.checked !== selected) check.checked = selected;
  const state = `${file.filename} ${file.etag} ${file.revision} ${file.poster ?? ""} ${showFolder} ${grid}`;
  row.file = file;
  if (row.dataset.state === state) return;
  row.dataset.state = state;
  const kind = kindOf(file);
  const { filename } = file;
  row.dataset.path = pathOf(file);
  setText(find(".file-name"), filename);
  find(".file-name").title = filename;
  const facts = factsLine(file, clock);
  const when = new Date(file.uploaded_at);
  const place = showFolder && file.folder;
  const bytes = size(file.length);
  find(".file-meta").replaceChildren(el("span", { class: "meta-size", text: bytes }), place || (grid ? moment(when) : describe(kind)));
  setText(find(".file-facts"), facts);
  setText(find(".file-size"), bytes);
  setText(find(".file-date"), moment(when));
  find(".file-date").title = when.toLocaleString();
  const [download, remove, details] = find(".file-actions").children;
  setAttribute(download, "href", address(file));
  setAttribute(download, "download", filename);
  for (const [element, label] of [[download, "Download"], [remove, "Delete"], [details, "Details of"], [check, "Select"]]) {
    setAttribute(element, "aria-label", `${label} ${filename}`);
    if (element !== check) setAttribute(element, "title", label.replace(" of", ""));
  }
  const thumb = find(".thumb");
  thumb.dataset.kind = kind;
  const badge = file.media_facts?.duration && grid ? el("span", { class: "badge", text: clock(file.media_facts.duration) }) : null;
  thumb.replaceChildren(icon(iconOf(kind)), ...(badge ? [badge] : []));
  void showPicture(thumb, file, grid);
}

const NAMES = { video: "Video", audio: "Audio", image: "Picture", text: "Text", pdf: "PDF", other: "File" };
const describe = (kind) => NAMES[kind];
