// What was drawn, the newest first.
import { gallery as list, small } from "./api.js";
import { button, fill, h, icon } from "./dom.js";
import { t } from "./i18n.js";
import { emit, groupOf, jobs, line, note, on, show, state } from "./state.js";

let root = /** @type {HTMLElement} */ (document.body);
/** @type {string[]} */
let ids = [];
/** @type {number | null} */
let next = null;
let search = "";
let favourites = false;
let loading = 0;

/** @param {HTMLElement} at */
export function build(at) {
  root = at;
  on("language", render);
  on("gallery", (id) => (id ? changed(id) : load()));
  on("view", mark);
  on("choosing", mark);
  render();
}

function render() {
  const box = h("input", { id: "search", class: "input", type: "search", value: search, placeholder: t("search"), "aria-label": t("search"), oninput: later });
  const heart = button("heart", t("favouritesOnly"), () => { favourites = !favourites; heart.setAttribute("aria-pressed", String(favourites)); load(); }, { pressed: favourites, id: "favourites" });
  const wide = button("wide", t("wider"), () => { const desk = document.getElementById("desk"); desk?.classList.toggle("wide"); wide.setAttribute("aria-pressed", String(desk?.classList.contains("wide"))); }, { pressed: false, class: "wider", id: "wider" });
  const thumbs = h("ul", { class: "thumbs", id: "thumbs", "aria-label": t("gallery"), onkeydown: move });
  fill(root,
    h("div", { class: "find" }, h("div", { class: "search" }, icon("search"), box), heart, wide),
    h("div", { class: "scroll", id: "gallery-scroll", tabindex: -1 }, thumbs, h("p", { class: "none", id: "none", hidden: true }), h("div", { class: "none", id: "gallery-more", hidden: true }, button("down", t("more"), () => load(true), { shown: true }))));
  const more = document.getElementById("gallery-more");
  if (more) new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && next && load(true)).observe(more);
  refill();
}

let timer = 0;

/** @param {Event} event */
function later(event) {
  search = /** @type {HTMLInputElement} */ (event.target).value;
  clearTimeout(timer);
  timer = window.setTimeout(() => load(), 180);
}

/** @param {boolean} [more] */
export async function load(more = false) {
  const turn = ++loading;
  const found = await list(search.trim(), favourites, more ? next : null).catch(() => null);
  if (!found || turn !== loading) return;
  found.jobs.forEach(note);
  const fresh = found.jobs.map((job) => job.id);
  ids = more ? [...ids, ...fresh.filter((id) => !ids.includes(id))] : fresh;
  next = found.next;
  refill();
}

/** A job is drawn, marked or gone. @param {string} id */
function changed(id) {
  const job = jobs.get(id);
  const fits = job?.state === "done" && (!favourites || job.favourite) && (!search.trim() || line(job.request["prompt"]).toLowerCase().includes(search.trim().toLowerCase()));
  if (fits && !ids.includes(id)) {
    ids = [id, ...ids].sort((a, b) => (jobs.get(b)?.number ?? 0) - (jobs.get(a)?.number ?? 0));
  } else if (!fits) ids = ids.filter((one) => one !== id);
  refill();
}

function refill() {
  const at = document.getElementById("thumbs");
  const none = document.getElementById("none");
  const more = document.getElementById("gallery-more");
  if (!at || !none || !more) return;
  /** @type {Map<string, Element>} */
  const had = new Map([...at.children].map((one) => [/** @type {HTMLElement} */ (one).dataset["key"] ?? "", one]));
  const current = document.activeElement instanceof HTMLElement ? document.activeElement.dataset["id"] : undefined;
  at.replaceChildren(...ids.map((id) => {
    const job = jobs.get(id);
    const key = `${id} ${job?.favourite}`;
    return had.get(key) ?? thumb(id, key);
  }));
  none.hidden = ids.length > 0;
  none.textContent = t(search || favourites ? "galleryNone" : "galleryEmpty");
  more.hidden = next === null;
  mark();
  if (current) focusOn(current);
}

/** @param {string} id @param {string} key */
function thumb(id, key) {
  const job = jobs.get(id);
  if (!job) return h("li", {});
  const name = t("image", { prompt: line(job.request["prompt"]) });
  return h("li", { "data-key": key },
    h("button", { type: "button", "data-id": id, "aria-label": job.favourite ? `${name} (${t("favourite")})` : name, title: line(job.request["prompt"]), onclick: () => choose(id) },
      h("img", { src: small(job), alt: "", loading: "lazy", width: 112, height: 112 }), job.favourite && icon("heart", true)));
}

/** @param {string} id */
function choose(id) {
  if (state.choosing && state.choosing !== id) {
    const a = state.choosing;
    state.choosing = null;
    emit("choosing");
    show({ kind: "compare", a, b: id });
  } else {
    document.getElementById("desk")?.classList.remove("wide");
    document.getElementById("wider")?.setAttribute("aria-pressed", "false");
    show({ kind: "one", id, group: groupOf(id) });
  }
}

/** Which one is shown, and which one Tab reaches. */
function mark() {
  const at = document.getElementById("thumbs");
  if (!at) return;
  const view = state.view;
  const current = view.kind === "one" ? [view.id] : view.kind === "group" && view.group.jobs.length === 1 ? view.group.jobs : view.kind === "compare" ? [view.a, view.b] : [];
  const buttons = /** @type {NodeListOf<HTMLElement>} */ (at.querySelectorAll("button"));
  at.classList.toggle("choose", state.choosing !== null);
  let reached = false;
  for (const one of buttons) {
    const here = current.includes(one.dataset["id"] ?? "");
    one.setAttribute("aria-current", String(here));
    one.tabIndex = here && !reached ? 0 : -1;
    reached ||= here;
  }
  if (!reached && buttons[0]) buttons[0].tabIndex = 0;
}

/** @param {string} id */
function focusOn(id) {
  const found = document.querySelector(`#thumbs button[data-id="${id}"]`);
  if (found instanceof HTMLElement) found.focus();
}

/** @param {KeyboardEvent} event */
function move(event) {
  const at = /** @type {HTMLElement} */ (event.currentTarget);
  const buttons = /** @type {HTMLElement[]} */ ([...at.querySelectorAll("button")]);
  const here = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  if (here < 0) return;
  const columns = getComputedStyle(at).gridTemplateColumns.split(" ").length;
  const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
  const to = event.key === "Home" ? 0 : event.key === "End" ? buttons.length - 1 : step === undefined ? -1 : here + step;
  const target = buttons[to];
  if (!target) return;
  event.preventDefault();
  for (const one of buttons) one.tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
}
