// A view whose modules and style are loaded when it is opened for the first time: the page's first download stays small.
import { el } from "./dom.js";

export class LazyView {
  #load;
  #style;
  #view = null;
  #loading = null;
  #asked = null; // the route to show once the view is there; null where another view was opened in the meantime

  /**
   * @param {string} title
   * @param {() => Promise<{ element: HTMLElement, show: (route: object) => void, hide?: () => void }>} load
   * @param {string} style address of its style sheet
   */
  constructor(title, load, style) {
    this.title = title;
    this.#load = load;
    this.#style = style;
    this.element = el("div", { class: "lazy" });
  }

  show(route) {
    if (this.#view) return this.#view.show(route);
    this.#asked = route;
    this.#loading ??= this.#open();
    return undefined;
  }

  /** Files that come to the page while this view is shown. */
  take(entries) {
    this.#view?.take?.(entries);
  }

  hide() {
    this.#asked = null;
    this.#view?.hide?.();
  }

  async #open() {
    document.title = `${this.title} · Gridcast`;
    this.element.replaceChildren(el("section", { class: "view" }, el("h1", { text: this.title }), el("p", { class: "soft", role: "status", text: "Loading…" })));
    try {
      const [view] = await Promise.all([this.#load(), this.#addStyle()]);
      this.#view = view;
    } catch {
      const again = el("button", { class: "button small", text: "Try again", onclick: () => (this.#loading = this.#open()) });
      this.element.replaceChildren(el("section", { class: "view" }, el("h1", { text: this.title }), el("p", { class: "notice error", role: "alert" }, "This view could not be loaded. Check the network.", again)));
      return;
    }
    this.element.replaceChildren(this.#view.element);
    if (this.#asked) this.#view.show(this.#asked);
  }

  #addStyle() {
    if (document.querySelector(`link[href="${this.#style}"]`)) return undefined;
    return new Promise((resolve, reject) => {
      const sheet = el("link", { rel: "stylesheet", href: this.#style, onload: resolve, onerror: () => (sheet.remove(), reject(new Error("no style"))) });
      document.head.append(sheet);
    });
  }
}
