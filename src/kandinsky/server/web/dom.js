// Elements without markup in strings: the page's policy lets no text become HTML.

/** @typedef {Node | string | number | null | undefined | false} Child */

const SVG = "http://www.w3.org/2000/svg";

/** @type {Record<string, string>} */
const ICONS = {
  queue: "M4 6h16M4 12h16M4 18h10",
  help: "M9.2 9a2.9 2.9 0 1 1 4.2 2.6c-.9.5-1.4 1.1-1.4 2.1M12 17.2v.1M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z",
  light: "M12 16a4 4 0 1 0 0-8 4 4 0 0 0 0 8ZM12 2v2.5M12 19.5V22M2 12h2.5M19.5 12H22M4.9 4.9l1.8 1.8M17.3 17.3l1.8 1.8M4.9 19.1l1.8-1.8M17.3 6.7l1.8-1.8",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z",
  out: "M14 4H6a2 2 0 0 0-2 2v12a2 2 0 0 0 2 2h8M10 12h11m-4-4 4 4-4 4",
  search: "M10.5 17a6.5 6.5 0 1 0 0-13 6.5 6.5 0 0 0 0 13Zm5-1.5L20 20",
  heart: "M12 20s-7.5-4.7-7.5-10.2A4.3 4.3 0 0 1 12 7.2a4.3 4.3 0 0 1 7.5 2.6C19.5 15.3 12 20 12 20Z",
  grid: "M4 4h6.5v6.5H4zM13.5 4H20v6.5h-6.5zM4 13.5h6.5V20H4zM13.5 13.5H20V20h-6.5z",
  wide: "M9 4H4v5M15 4h5v5M9 20H4v-5M15 20h5v-5",
  close: "M6 6l12 12M18 6 6 18",
  stop: "M7 7h10v10H7z",
  download: "M12 4v11m-4.5-4 4.5 4.5 4.5-4.5M4.5 20h15",
  trash: "M4.5 7h15M10 11v6M14 11v6M6.5 7l.8 12a1.5 1.5 0 0 0 1.5 1.4h6.4a1.5 1.5 0 0 0 1.5-1.4l.8-12M9.5 7V4.5h5V7",
  again: "M4.5 12a7.5 7.5 0 0 1 13-5.1L20 9.5M20 4v5.5h-5.5M19.5 12a7.5 7.5 0 0 1-13 5.1L4 14.5M4 20v-5.5h5.5",
  edit: "M4 20l1-4.5L16.5 4a1.9 1.9 0 0 1 2.7 0l.8.8a1.9 1.9 0 0 1 0 2.7L8.5 19 4 20Z",
  mix: "M9 15.5a6 6 0 1 0 0-12 6 6 0 0 0 0 12ZM15 20.5a6 6 0 1 0 0-12 6 6 0 0 0 0 12Z",
  compare: "M12 3v18M5 6h4M5 18h4M5 6v12M15 6h4v12h-4",
  image: "M4.5 4.5h15v15h-15zM4.5 16l4.5-4.5 3.5 3.5 3-3 4 4M15 9.2v.1",
  up: "M12 19V5m-6 6 6-6 6 6",
  down: "M12 5v14m-6-6 6 6 6-6",
  top: "M5 4h14M12 20V8m-5.5 5.5L12 8l5.5 5.5",
  plus: "M12 5v14M5 12h14",
  minus: "M5 12h14",
  dice: "M4.5 4.5h15v15h-15zM8.5 8.5v.1M15.5 8.5v.1M12 12v.1M8.5 15.5v.1M15.5 15.5v.1",
  brush: "M20 4c-5 2-9 6-11 9.5l1.5 1.5C14 13 18 9 20 4ZM8.5 14.5c-2 0-3 1.2-3 3 0 1-.5 1.7-1.5 2 3.5 1.5 6.5 0 6.5-3",
  eraser: "M8.5 19.5 4 15a1.4 1.4 0 0 1 0-2l8.5-8.5a1.4 1.4 0 0 1 2 0L19 9a1.4 1.4 0 0 1 0 2l-8.5 8.5h-2ZM8.5 8.5l6.5 6.5M8.5 19.5H20",
  undo: "M8.5 5 4 9.5 8.5 14M4 9.5h10a5.5 5.5 0 0 1 0 11h-3",
  redo: "M15.5 5 20 9.5 15.5 14M20 9.5H10a5.5 5.5 0 0 0 0 11h3",
  invert: "M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18ZM12 3v18M12 8h6.5M12 12h8.5M12 16h7",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5M9 9h6v6H9z",
  extend: "M8 8h8v8H8zM12 2v3.5M12 18.5V22M2 12h3.5M18.5 12H22",
  text: "M5 6V4.5h14V6M12 4.5v15M9.5 19.5h5",
  panel: "M4 7h9M17 7h3M15 5v4M4 17h3M11 17h9M9 15v4",
  info: "M12 11v5M12 8v.1M12 21a9 9 0 1 0 0-18 9 9 0 0 0 0 18Z",
  open: "M4 18V6a1.5 1.5 0 0 1 1.5-1.5H10l2 2.5h6.5A1.5 1.5 0 0 1 20 8.5V18a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 18Z",
};

/**
 * An element. Functions under "on..." listen, "vars" are custom properties of CSS, true and false are attributes that are
 * there or not.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [props]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "vars") set(made, /** @type {Record<string, string>} */ (value));
    else if (typeof value === "function") made.addEventListener(name.slice(2), /** @type {EventListener} */ (value));
    else if (name === "value" && "value" in made) made.value = /** @type {never} */ (String(value));
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  put(made, ...children);
  return made;
}

/** @param {HTMLElement} at @param {Record<string, string | number>} vars */
export function set(at, vars) {
  for (const [name, value] of Object.entries(vars)) at.style.setProperty(name, String(value));
}

/** @param {Element} at @param {...(Child | Child[])} children */
export function put(at, ...children) {
  for (const one of children.flat()) {
    if (one === null || one === undefined || one === false) continue;
    at.append(one instanceof Node ? one : String(one));
  }
}

/** @param {Element} at @param {...(Child | Child[])} children */
export function fill(at, ...children) {
  at.replaceChildren();
  put(at, ...children);
}

/** @param {string} name @param {boolean} [full] */
export function icon(name, full = false) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", full ? "ico full" : "ico");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name] ?? "");
  svg.append(path);
  return svg;
}

/**
 * A button with an icon, and a name that is shown or read.
 * @param {string} name @param {string} label @param {(event: Event) => unknown} act
 * @param {{shown?: boolean, pressed?: boolean, quiet?: boolean, key?: string, disabled?: boolean, class?: string, id?: string}} [how]
 */
export function button(name, label, act, how = {}) {
  const shown = how.shown ?? false;
  return h(
    "button",
    {
      type: "button",
      id: how.id,
      class: `btn${shown ? "" : " icon"}${how.quiet ?? true ? " quiet" : ""}${how.class ? ` ${how.class}` : ""}`,
      title: how.key ? `${label} (${how.key})` : label,
      "aria-label": label,
      "aria-pressed": how.pressed === undefined ? null : String(how.pressed),
      "aria-keyshortcuts": how.key,
      disabled: how.disabled,
      onclick: act,
    },
    icon(name),
    shown && h("span", {}, label),
  );
}

let last = 0;

/** @param {string} stem */
export function fresh(stem) {
  last += 1;
  return `${stem}-${last}`;
}

/** @param {string} id */
export function at(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(id);
  return found;
}

/**
 * Shows something modal; resolves with what closed it.
 * @param {(close: (value?: string) => void) => (Child | Child[])} content
 * @param {{label: string, class?: string}} how
 * @returns {Promise<string>}
 */
export function dialog(content, how) {
  const box = h("dialog", { "aria-label": how.label, class: how.class });
  const before = document.activeElement;
  return new Promise((resolve) => {
    const close = (/** @type {string} */ value = "") => box.close(value);
    put(box, content(close));
    box.addEventListener("click", (event) => event.target === box && close());
    box.addEventListener("close", () => {
      box.remove();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
      resolve(box.returnValue);
    });
    document.body.append(box);
    box.showModal();
  });
}

/** @param {string} text @param {{name?: string, act?: () => void, seconds?: number}} [more] */
export function toast(text, more = {}) {
  const close = () => one.remove();
  const one = h(
    "div",
    { class: "toast" },
    icon("info"),
    h("p", {}, text),
    more.name && h("button", { type: "button", class: "btn", onclick: () => { close(); more.act?.(); } }, more.name),
    h("button", { type: "button", class: "btn icon", "aria-label": "×", onclick: close }, icon("close")),
  );
  at("toasts").append(one);
  while (at("toasts").children.length > 3) at("toasts").firstElementChild?.remove();
  setTimeout(close, (more.seconds ?? 8) * 1000);
  return close;
}

let saying = 0;

/** Tells a screen reader. @param {string} text */
export function say(text) {
  clearTimeout(saying);
  saying = window.setTimeout(() => { at("said").textContent = text; }, 60);
}
