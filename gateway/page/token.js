// The field for the token, and what it says.
import { currentToken, keepsToken, setToken, tokenListeners } from "./app.js";
import { open, toast } from "./dialogs.js";
import { el } from "./dom.js";
import { span } from "./format.js";
import { icon } from "./icons.js";

/** The claims of a token that is a JWT. They are only shown: the server verifies. */
function claims(token) {
  try {
    const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (letter) => letter.codePointAt(0))));
  } catch {
    return null;
  }
}

function describe(token) {
  if (!token) return "No token. That is right where this server is open.";
  const found = claims(token);
  if (!found) return "This does not look like a token (JWT): three parts, with dots between them.";
  const left = found.exp ? found.exp - Date.now() / 1000 : null;
  const ends = left === null ? "" : left <= 0 ? " It has expired: get a new one." : ` It is valid for ${span(left)}.`;
  const scope = Array.isArray(found.scope) ? found.scope.join(" ") : found.scope;
  return `Token of ${found.sub ?? "an unnamed subject"}.${ends}${scope ? ` Rights: ${scope}.` : ""}`;
}

/** The button in the bar. It shows whether there is a token, and whether the server has refused it. */
export function createTokenButton() {
  const dot = el("span", { class: "dot", hidden: true });
  const button = el("button", { class: "icon-button token-button", title: "Token", onclick: edit }, icon("key"), dot);
  const show = (token) => {
    const expired = token && (claims(token)?.exp ?? Infinity) * 1000 < Date.now();
    dot.hidden = !token;
    dot.className = `dot ${expired ? "bad" : "good"}`;
    button.setAttribute("aria-label", token ? (expired ? "Token: expired" : "Token: set") : "Token: none");
  };
  tokenListeners.add(show);
  show(currentToken());
  return button;
}

function edit() {
  const input = el("input", { class: "input mono", type: "password", autocomplete: "off", spellcheck: false, id: "token-field", "aria-describedby": "token-state" });
  input.value = currentToken();
  const keep = el("input", { type: "checkbox", class: "check" });
  keep.checked = keepsToken();
  const state = el("p", { class: "small soft", id: "token-state", role: "status", text: describe(input.value) });
  input.addEventListener("input", () => (state.textContent = describe(input.value.trim())));
  const form = el(
    "form",
    { class: "dialog-form" },
    el("h2", { id: "token-title", text: "Token" }),
    el("p", { class: "soft small", text: "Where authentication is on, the server needs a token. It is sent with every request, and not stored on the server." }),
    el("label", { class: "field" }, el("span", { text: "Token" }), input),
    state,
    el("label", { class: "inline small" }, keep, "Keep it in this window, also after a reload"),
    el("div", { class: "dialog-actions" }, el("button", { class: "button", type: "button", text: "Cancel", onclick: () => dialog.close() }), el("button", { class: "button", type: "button", text: "Remove", onclick: () => apply("") }), el("button", { class: "button primary", text: "Use it" })),
  );
  const dialog = el("dialog", { "aria-labelledby": "token-title" }, form);
  const apply = (token) => {
    dialog.close();
    setToken(token, keep.checked);
    toast(token ? "The token is used from now on." : "The token was removed.");
  };
  form.onsubmit = (event) => {
    event.preventDefault();
    apply(input.value.trim());
  };
  open(dialog);
  input.focus();
}
