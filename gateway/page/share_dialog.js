// Shares a file: makes a link that needs no token, and shows those that were made in this window, to be copied or revoked.
import { currentToken, links } from "./app.js";
import { copy, open, toast } from "./dialogs.js";
import { el } from "./dom.js";
import { span, words } from "./format.js";
import { icon } from "./icons.js";
import { pathAddress, pathOf } from "./router.js";
import { Shares } from "./shares.js";

const LIVES = { 3600: "1 hour", 86400: "1 day", 259200: "3 days", 604800: "7 days" };

let made;

/** The links of this window. */
export const shares = () => (made ??= new Shares(links, storage()));

function storage() {
  try {
    return sessionStorage;
  } catch {
    return { getItem: () => null, setItem() {} };
  }
}

/** Open the dialog for a file. */
export function share(file) {
  const close = el("form", { method: "dialog", class: "dialog-actions" }, el("button", { class: "button", text: "Close" }));
  const title = el("h2", { id: "share-title", text: `Share “${file.filename}”` });
  open(el("dialog", { class: "share", "aria-labelledby": "share-title" }, title, ...(currentToken() ? withToken(file) : withoutToken(file)), close));
}

/** Without a token there is nothing that a link would add. */
function withoutToken(file) {
  const text = "You use this server without a token, so everyone who can reach it can open this address.";
  return [el("p", { class: "soft", text }), addressLine(pathAddress(file))];
}

/** A choice of how long a link lives, in seconds. @returns {[HTMLSelectElement, HTMLElement]} */
export function lifeField() {
  const life = el("select", { class: "input", "aria-label": "Valid for" }, Object.entries(LIVES).map(([value, label]) => el("option", { value, text: label })));
  life.value = "86400";
  return [life, el("label", { class: "field" }, el("span", { text: "Valid for" }), life)];
}

function withToken(file) {
  const [life, lifePlace] = lifeField();
  const follow = el("input", { type: "checkbox", class: "check" });
  const act = el("button", { class: "button primary" }, icon("link"), "Make a link");
  const result = el("div", { class: "stack", role: "status" });
  const list = el("div", { class: "shares" });
  const form = el(
    "form",
    { class: "dialog-form" },
    el("p", { class: "soft", text: "Everyone with the link can see and download this file until it ends or is revoked, without a token." }),
    el("div", { class: "share-form" }, lifePlace, act),
    el("label", { class: "inline small" }, follow, "Also for later versions of this file"),
  );
  form.onsubmit = async (event) => {
    event.preventDefault();
    if (act.disabled) return;
    act.disabled = true;
    try {
      const one = await shares().make(file, Number(life.value), follow.checked);
      result.replaceChildren(addressLine(one.address));
      showList(list, "get");
      void copy(one.address, "Link");
    } catch (error) {
      result.replaceChildren(el("p", { class: "notice error", role: "alert", text: words(error) }));
    }
    act.disabled = false;
  };
  showList(list, "get");
  return [form, result, list];
}

/** An address to be copied. */
export function addressLine(address) {
  const field = el("input", { class: "input mono", readonly: true, "aria-label": "Link" });
  field.value = address;
  field.addEventListener("focus", () => {
    field.select();
    requestAnimationFrame(() => (field.scrollLeft = 0)); // its beginning says more than its end
  });
  return el("div", { class: "share-line" }, field, el("button", { class: "button", type: "button", onclick: () => copy(address, "Link") }, icon("copy"), "Copy"));
}

/** Show the links of one kind that were made in this window. */
export function showList(place, wanted) {
  const all = shares().all.filter(({ kind }) => kind === wanted);
  place.hidden = all.length === 0;
  const rows = all.map((one) => {
    const ends = `ends in ${span(one.expires_at - Date.now() / 1000)}`;
    const again = one.address && el("button", { class: "icon-button", type: "button", title: "Copy", "aria-label": `Copy the link to ${one.filename}`, onclick: () => copy(one.address, "Link") }, icon("copy"));
    const revoke = el("button", { class: "button small danger", type: "button", text: "Revoke", "aria-label": `Revoke the link to ${one.filename}` });
    revoke.onclick = async () => {
      revoke.disabled = true;
      try {
        await shares().revoke(one);
        toast("The link is revoked.");
        showList(place, wanted);
      } catch (error) {
        revoke.disabled = false;
        toast(words(error), { error: true });
      }
    };
    return el("li", {}, el("div", { class: "share-name" }, el("span", { text: one.filename, title: pathOf(one) }), el("span", { class: "small soft", text: ends })), again, revoke);
  });
  place.replaceChildren(el("h3", { text: "Links made in this window" }), el("ul", {}, rows));
}
