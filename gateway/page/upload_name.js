// Another name for a file of the queue: before it is sent, or where its name is taken.
import { el } from "./dom.js";
import { icon } from "./icons.js";

/** Whether nothing of it was sent under its present name, or the server did not take that name. */
export const canRename = ({ state, sent, error }) => state === "waiting" || (state === "paused" && sent === 0) || (state === "failed" && [400, 409].includes(error?.status));

/** What is wrong with a name, in people's words; empty where nothing is. */
export function faultOf(name) {
  if (!name) return "Give the file a name.";
  if (/[/\\]/.test(name)) return "A name has no slash. Folders are chosen before the upload.";
  if (new TextEncoder().encode(name).length > 255) return "This name is too long.";
  return "";
}

/** Split a name into what people change and what tells its type. */
export function partsOf(name) {
  const cut = name.lastIndexOf(".");
  return cut > 0 ? [name.slice(0, cut), name.slice(cut)] : [name, ""];
}

/**
 * Put a field in the place of the name. Enter takes what it has, Escape leaves the name as it was.
 * @param {HTMLElement} row
 * @param {string} filename
 * @param {(name: string | null) => void} done called once; null: the name stays
 * @returns {() => void} ends it, as Escape does
 */
export function editName(row, filename, done) {
  const input = el("input", { class: "input", "aria-label": `New name of ${filename}`, autocomplete: "off", spellcheck: false, maxlength: 255 });
  input.value = filename;
  const take = el("button", { class: "icon-button", "aria-label": "Take this name", title: "Take this name" }, icon("check"));
  const leave = el("button", { class: "icon-button", type: "button", "aria-label": "Leave the name as it was", title: "Cancel" }, icon("close"));
  const form = el("form", { class: "upload-rename" }, input, take, leave);
  let isOpen = true;
  const end = (name) => {
    if (!isOpen) return;
    isOpen = false;
    form.remove();
    row.classList.remove("renamed");
    done(name);
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    const name = input.value.trim();
    input.setCustomValidity(faultOf(name));
    if (input.reportValidity()) end(name === filename ? null : name);
  };
  input.addEventListener("input", () => input.setCustomValidity(""));
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.preventDefault();
    end(null);
  });
  leave.addEventListener("click", () => end(null));
  row.classList.add("renamed");
  row.prepend(form);
  input.focus();
  input.setSelectionRange(0, partsOf(filename)[0].length);
  return () => end(null);
}
