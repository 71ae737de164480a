// Makes and changes elements. Text is set as text, never as HTML.

/**
 * An element. Properties are set as such where the element has them, `on...` are listeners, `data` is the dataset, and all others
 * are attributes; null, undefined and false leave an attribute out.
 */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2).toLowerCase(), value);
    else if (key === "data") Object.assign(made.dataset, value);
    else if (key === "class") made.className = value;
    else if (key === "text") made.textContent = value;
    else setAttribute(made, key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Sets an attribute only where it changes. */
export function setAttribute(element, name, value) {
  if (name.startsWith("aria-") && typeof value === "boolean") value = String(value);
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value === true ? "" : value)) element.setAttribute(name, value === true ? "" : value);
}

/** Sets the text only where it changes: a selection in it, and what a screen reader says, stay. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A function that calls `work` at most once per frame. */
export function perFrame(work) {
  let due = 0;
  return () => {
    due ||= requestAnimationFrame(() => {
      due = 0;
      work();
    });
  };
}

/** A function that calls `work` when it has not been called for `milliseconds`. */
export function debounced(work, milliseconds) {
  let timer;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), milliseconds);
  };
}

/** Keeps a choice of the person on this machine, where the browser allows that. */
export const choices = {
  get(key) {
    try {
      return localStorage.getItem(`gridcast:choice:${key}`);
    } catch {
      return null;
    }
  },
  set(key, value) {
    try {
      localStorage.setItem(`gridcast:choice:${key}`, value);
    } catch {
      // forbidden or full: the choice lasts until the page is left
    }
  },
};
