// Questions, and messages that pass.
import { el } from "./dom.js";
import { icon } from "./icons.js";

const SHOWN = 6_000; // milliseconds of a message; errors stay for twice that

/**
 * Show a message at the bottom of the page.
 * @param {string} text
 * @param {{ error?: boolean, action?: { label: string, run: () => void } }} [options]
 */
export function toast(text, { error = false, action } = {}) {
  const remove = () => shown.remove();
  const close = el("button", { class: "icon-button", "aria-label": "Dismiss", onclick: remove }, icon("close"));
  const act = action && el("button", { class: "link-button", text: action.label, onclick: () => (remove(), action.run()) });
  const shown = el("div", { class: error ? "toast error" : "toast" }, el("span", { text }), act, close);
  const place = document.getElementById("toasts");
  host(place);
  for (const one of [...place.children]) if (one.firstElementChild.textContent === text) one.remove(); // said once is enough
  place.append(shown);
  while (place.childElementCount > 3) place.firstElementChild.remove();
  setTimeout(remove, error ? 2 * SHOWN : SHOWN);
}

/** Put the messages where they can be seen and clicked: into the dialog that is open, if there is one. */
function host(place) {
  const parent = [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;
  if (place.parentElement !== parent) parent.append(place);
}

document.addEventListener("close", () => host(document.getElementById("toasts")), true);

/** Copy text, and say so. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied.`);
  } catch {
    showText(what, text);
  }
}

function showText(what, text) {
  const field = el("textarea", { class: "input", readonly: true, "aria-label": what });
  field.value = text;
  open(el("dialog", { "aria-label": what }, el("h2", { text: `Copy the ${what.toLowerCase()}` }), field, closing("Close")));
  field.select();
}

/** Open a dialog; it is removed when it closes, and the focus goes back to where it was. */
export function open(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("close", () => queueMicrotask(() => dialog.remove()));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.showModal();
  return dialog;
}

const closing = (label) => el("form", { method: "dialog", class: "dialog-actions" }, el("button", { class: "button", text: label }));

/**
 * Ask before something that cannot be undone.
 * @returns {Promise<boolean>}
 */
export function confirm(title, text, label) {
  return new Promise((resolve) => {
    const cancel = el("button", { class: "button", value: "", text: "Cancel", autofocus: true });
    const act = el("button", { class: "button danger filled", value: "yes", text: label });
    const form = el("form", { method: "dialog", class: "dialog-actions" }, cancel, act);
    const dialog = el("dialog", { "aria-labelledby": "ask-title" }, el("h2", { id: "ask-title", text: title }), el("p", { class: "soft", text }), form);
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
    open(dialog);
  });
}
