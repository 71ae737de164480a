// Shows the part of a long list that is on the screen, as rows or as cards. Elements are kept by key while they are on the screen, and
// the one with the focus is never taken away or moved.
import { perFrame } from "./dom.js";

const OVERSCAN = 6; // rows above and below the screen

export class WindowList {
  #list;
  #source;
  #elements = new Map();
  #layout = { columns: 1, height: 64, gap: 0 };

  /**
   * @param {HTMLElement} list
   * @param {{
   *   length: () => number, key: (index: number) => string, make: (index: number) => HTMLElement,
   *   update: (element: HTMLElement, index: number) => void, layout: (width: number) => { columns: number, height: number, gap: number },
   *   has: (key: string) => boolean, shown: (first: number, last: number) => void, focus: (index: number) => void,
   * }} source
   */
  constructor(list, source) {
    this.#list = list;
    this.#source = source;
    this.render = perFrame(() => this.#render());
    addEventListener("scroll", this.render, { passive: true });
    addEventListener("resize", this.render, { passive: true });
  }

  /** Throw all elements away: the list is another one. */
  clear() {
    this.#elements.clear();
    this.#list.replaceChildren();
  }

  element(key) {
    return this.#elements.get(key);
  }

  get columns() {
    return this.#layout.columns;
  }

  /** Scroll so that a place can be seen, and call `then` when it is on the page. */
  reveal(index, then) {
    const { columns, height } = this.#layout;
    const top = this.#list.getBoundingClientRect().top + scrollY + Math.floor(index / columns) * height;
    const space = 140; // the bars above, in pixels
    if (top < scrollY + space) scrollTo(0, top - space);
    else if (top + height > scrollY + innerHeight - 80) scrollTo(0, top + height - innerHeight + 80);
    this.#render();
    then?.();
  }

  #render() {
    const list = this.#list;
    if (!list.isConnected || list.offsetParent === null) return;
    const width = list.clientWidth;
    this.#layout = this.#source.layout(width);
    const { columns, height, gap } = this.#layout;
    const length = this.#source.length();
    const rows = Math.ceil(length / columns);
    list.style.height = `${rows * height}px`;
    const above = -list.getBoundingClientRect().top;
    const firstRow = Math.max(0, Math.floor(above / height) - OVERSCAN);
    const lastRow = Math.min(rows, Math.ceil((above + innerHeight) / height) + OVERSCAN);
    const first = firstRow * columns;
    const last = Math.min(length, lastRow * columns);
    this.#source.shown(first, last);

    const wanted = new Map();
    for (let index = first; index < last; index++) wanted.set(this.#source.key(index), index);
    let lost = -1;
    for (const [key, element] of this.#elements) {
      if (wanted.has(key)) continue;
      if (element.contains(document.activeElement)) {
        if (this.#source.has(key)) continue; // it was only scrolled away
        lost = element.place ?? 0;
      }
      element.remove();
      this.#elements.delete(key);
    }
    const cell = (width - gap * (columns - 1)) / columns;
    let cursor = list.firstElementChild;
    for (const [key, index] of wanted) {
      let element = this.#elements.get(key);
      if (!element) {
        element = this.#source.make(index);
        this.#elements.set(key, element);
      }
      this.#source.update(element, index);
      element.place = index;
      const [column, row] = [index % columns, Math.floor(index / columns)];
      element.style.width = `${cell}px`;
      element.style.height = `${height - gap}px`;
      element.style.transform = `translate(${column * (cell + gap)}px, ${row * height}px)`;
      if (element === cursor) cursor = cursor.nextElementSibling;
      else if (element.contains(document.activeElement)) {
        // A move would take the focus away: what is in between moves behind it instead.
        while (cursor && cursor !== element) {
          const other = cursor;
          cursor = cursor.nextElementSibling;
          element.after(other);
        }
        cursor = element.nextElementSibling;
      } else list.insertBefore(element, cursor);
    }
    if (lost >= 0) this.#source.focus(Math.min(lost, length - 1));
  }
}
