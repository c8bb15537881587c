// The page begins here: who comes in, what the server can do, and what happens to jobs.
import * as actions from "./actions.js";
import { ApiError, ask, listen } from "./api.js";
import { at, button, dialog, fill, h, icon, say, toast } from "./dom.js";
import { openFile, watchDrops } from "./drop.js";
import * as easel from "./easel.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import { lang, speak, t } from "./i18n.js";
import * as queue from "./queue.js";
import { draw, Lacking } from "./request.js";
import * as stage from "./stage.js";
import { emit, form as fields, isEnded, jobs, lastView, MODES, note, on, show, state } from "./state.js";

const THEMES = ["system", "light", "dark"];

async function begin() {
  document.documentElement.lang = lang();
  theme(localStorage.getItem("theme") ?? "system");
  state.options = await options();
  stage.build(at("stage"));
  form.build(at("panel"), go);
  gallery.build(at("gallery"));
  tools();
  panes();
  words();
  on("language", () => { tools(); panes(); words(); });
  on("queue", tools);
  on("view", () => { if (matchMedia("(max-width: 760px)").matches) pane(state.view.kind === "welcome" ? "panel" : "stage"); });
  on("image", (what) => { if (what === "open") form.pickFile((file) => void openFile(file)); });
  watchDrops();
  document.addEventListener("keydown", keys);
  listen(hear, connected);
  await Promise.all([queue.load(), gallery.load()]);
  resume();
  if (!state.options.ready) void ready();
}

/** Until the model is there. */
async function ready() {
  while (!state.options?.ready) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    state.options = await options();
  }
  emit("job", stage.shown()[0]);
}

/** What was on the canvas before the page was loaded again; else what is being drawn. */
function resume() {
  const last = lastView();
  const active = [...jobs.values()].find((job) => !isEnded(job));
  if (last?.kind === "group" || last?.kind === "one" || last?.kind === "compare") show(last);
  else if (last?.kind === "easel" && fields.mode === "edit" && fields.source) show(last);
  else if (active) show({ kind: "group", group: { kind: "images", jobs: [active.id], columns: [], rows: [] } });
  else show({ kind: "welcome" });
}

/** @returns {Promise<import("./api.js").Options>} */
async function options() {
  for (;;) {
    try {
      return await ask("GET", "/api/options");
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) await login();
      else await new Promise((resolve) => setTimeout(resolve, 1500));
    }
  }
}

/** Asks for the token, until it is right. */
async function login() {
  for (let wrong = false, inside = false; !inside; ) {
    /** @type {HTMLInputElement | undefined} */
    let box;
    await dialog((close) => {
      box = h("input", { id: "token", class: "input", type: "password", autocomplete: "current-password", autofocus: true, "aria-invalid": wrong ? "true" : null, "aria-describedby": "token-said" });
      return h("form", { onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); close("yes"); } },
        h("h2", {}, t("login")), h("p", { id: "token-said", role: wrong ? "alert" : null }, t(wrong ? "loginWrong" : "loginText")),
        h("div", { class: "field" }, h("label", { for: "token" }, t("token")), box),
        h("div", { class: "acts" }, h("button", { class: "btn primary", type: "submit" }, t("enter"))));
    }, { label: t("login") });
    if (!box?.value) continue;
    try {
      await ask("POST", "/api/session", { token: box.value });
      inside = true;
    } catch (error) {
      wrong = error instanceof ApiError && error.status === 401;
      if (!wrong) toast(t("offline"));
    }
  }
}

async function leave() {
  await ask("DELETE", "/api/session").catch(() => null);
  for (const name of ["view", "groups", "form"]) localStorage.removeItem(name);
  location.reload();
}

async function go() {
  const send = document.getElementById("go");
  if (send instanceof HTMLButtonElement) send.disabled = true;
  for (const one of document.querySelectorAll("[aria-invalid]")) one.removeAttribute("aria-invalid");
  try {
    const n = await draw(easel.painted);
    say(t("queued", { n }));
    queue.soon();
  } catch (error) {
    complain(error);
  } finally {
    if (send instanceof HTMLButtonElement) send.disabled = false;
  }
}

/** @param {unknown} error */
function complain(error) {
  if (error instanceof Lacking) {
    const field = document.getElementById({ x: "values-x", source: "choose", parts: "part-0" }[error.field] ?? error.field);
    field?.setAttribute("aria-invalid", "true");
    field?.focus();
    toast(error.message);
  } else if (error instanceof ApiError) {
    if (error.status === 401) void login();
    else if (error.status === 0) toast(t("offline"));
    else if (error.status === 429) toast(t("queueFull"));
    else if (error.status === 413) toast(t("tooLarge"));
    else toast(error.message);
  } else {
    toast(t("sorry", { message: String(error) }));
    throw error;
  }
}

/** @param {string} kind @param {any} values */
function hear(kind, values) {
  if (kind === "refresh") return queue.soon();
  if (kind === "forgotten") return jobs.has(values.id) ? actions.forgotten(values.id) : undefined;
  if (kind === "warned") return stage.shown().includes(values.id) ? void toast(values.message, { seconds: 12 }) : undefined;
  if (["queued", "done", "failed", "cancelled"].includes(kind)) {
    const job = note(values);
    queue.soon();
    emit("job", job.id);
    if (job.state === "done") emit("gallery", job.id);
    if (isEnded(job)) stage.tellEnd(job);
    return undefined;
  }
  const job = jobs.get(values.id);
  if (!job || isEnded(job)) return undefined;
  if (job.state === "queued") queue.soon();
  job.state = "running";
  job.started ??= Date.now() / 1000;
  if (kind === "progress") job.progress = values;
  if (kind === "preview") job.preview = { width: values.width, height: values.height, data: pixels(values.rgb) };
  emit("job", job.id);
  return undefined;
}

/** RGB in base64 as what a canvas takes. @param {string} rgb @returns {Uint8ClampedArray<ArrayBuffer>} */
function pixels(rgb) {
  const raw = atob(rgb);
  const made = new Uint8ClampedArray((raw.length / 3) * 4);
  for (let i = 0, o = 0; i < raw.length; i += 3, o += 4) {
    made[o] = raw.charCodeAt(i);
    made[o + 1] = raw.charCodeAt(i + 1);
    made[o + 2] = raw.charCodeAt(i + 2);
    made[o + 3] = 255;
  }
  return made;
}

let lost = 0;
/** @type {(() => void) | null} */
let unlost = null;

/** @param {boolean} there */
async function connected(there) {
  if (!there) {
    lost ||= window.setTimeout(() => { state.online = false; unlost = toast(t("offline"), { seconds: 3600 }); }, 1500);
    return;
  }
  const broke = lost || !state.online;
  clearTimeout(lost);
  lost = 0;
  if (!state.online) {
    state.online = true;
    unlost?.();
    toast(t("online"), { seconds: 3 });
  }
  // What was told while the line was down, however shortly, is told to nobody again.
  if (broke) await again();
}

/** Asks anew for all that may have changed meanwhile. */
async function again() {
  const open = [...jobs.values()].filter((job) => !isEnded(job)).map((job) => job.id);
  await Promise.all([queue.load(), gallery.load(), ...open.map((id) => ask("GET", `/api/jobs/${id}`).then(note, () => null))]);
  open.forEach((id) => emit("job", id));
}

function tools() {
  const n = queue.length();
  const focus = document.activeElement?.id;
  const open = button("queue", t("queue"), () => queue.show(), { shown: true, key: "Q", id: "open-queue" });
  if (n) open.append(h("span", { class: "badge" }, String(n)));
  const language = h("button", { type: "button", class: "btn quiet", id: "language", lang: lang() === "en" ? "ru" : "en", "aria-label": t("language"), title: t("language"), onclick: () => { speak(lang() === "en" ? "ru" : "en"); emit("language"); } }, lang() === "en" ? "РУ" : "EN");
  fill(at("tools"), open, language, button(dark() ? "light" : "dark", t("theme"), swap, { id: "theme" }), button("help", t("help"), help, { key: "?", id: "help" }), state.options?.token && button("out", t("leave"), leave, { id: "leave" }));
  if (focus && ["open-queue", "language", "theme", "help"].includes(focus)) document.getElementById(focus)?.focus();
}

function words() {
  document.documentElement.lang = lang();
  const named = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-l]"));
  for (const one of named) one.setAttribute("aria-label", t(/** @type {import("./i18n.js").Key} */ (one.dataset["l"])));
  const said = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("[data-t]"));
  for (const one of said) one.textContent = t(/** @type {import("./i18n.js").Key} */ (one.dataset["t"]));
  at("model").textContent = state.options?.model ?? "";
}

function dark() {
  const chosen = document.documentElement.dataset["theme"];
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** @param {string} to */
function theme(to) {
  if (THEMES.includes(to) && to !== "system") document.documentElement.dataset["theme"] = to;
  else delete document.documentElement.dataset["theme"];
}

function swap() {
  const to = dark() ? "light" : "dark";
  localStorage.setItem("theme", to);
  theme(to);
  tools();
}

function panes() {
  const all = /** @type {const} */ ([["panel", "controls", "panel"], ["stage", "canvas", "image"], ["gallery", "gallery", "grid"]]);
  fill(at("panes"), all.map(([name, label, sign]) => h("button", { type: "button", "data-pane": name, onclick: () => pane(name) }, icon(sign), t(label))));
  pane(at("desk").dataset["pane"] ?? "panel");
}

/** @param {string} name */
function pane(name) {
  at("desk").dataset["pane"] = name;
  for (const one of at("panes").children) one.setAttribute("aria-current", String(/** @type {HTMLElement} */ (one).dataset["pane"] === name));
}

function help() {
  const rows = /** @type {[string, import("./i18n.js").Key][]} */ ([
    ["Ctrl ↵", "keyDraw"], ["Esc", "keyCancel"], ["1 2 3 4", "keyModes"], ["/", "keySearch"], ["Q", "keyQueue"], ["← ↑ → ↓", "keyMove"], ["F", "keyFavourite"], ["Del", "keyDelete"],
    ["B E", "keyBrush"], ["[ ]", "keySize"], ["+ − 0", "keyZoom"], ["Ctrl Z, Ctrl Y", "keyUndo"], ["← ↑ → ↓, ␣", "keyPaint"]]);
  return dialog((close) => [h("h2", {}, t("keysTitle")), h("dl", { class: "keys" }, rows.flatMap(([name, key]) => [h("dt", {}, h("kbd", { class: "key" }, name)), h("dd", {}, t(key))])),
    h("div", { class: "acts" }, h("button", { type: "button", class: "btn", autofocus: true, onclick: () => close() }, t("close")))], { label: t("keysTitle") });
}

/** @param {KeyboardEvent} event */
function keys(event) {
  if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const writing = target.matches("textarea, select, input:not([type=range]):not([type=checkbox])");
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key === "Enter") void go();
  else if (event.key === "Escape") escape(target);
  else if (!writing && state.view.kind === "easel" && easel.key(event)) event.preventDefault();
  else if (writing || command || event.altKey) return;
  else if (event.key === "/") at("search").focus();
  else if (/^[1-4]$/.test(event.key)) form.choose(MODES[Number(event.key) - 1] ?? "draw");
  else if (event.key.toLowerCase() === "q") void queue.show();
  else if (event.key === "?") void help();
  else if (event.key.toLowerCase() === "f" && stage.chosen()?.state === "done") void actions.favourite(/** @type {import("./state.js").Live} */ (stage.chosen()));
  else if (event.key === "Delete" && stage.chosen()?.state === "done") void actions.remove(/** @type {import("./state.js").Live} */ (stage.chosen()));
  else return;
  event.preventDefault();
}

/** @param {HTMLElement} target */
async function escape(target) {
  if (state.choosing) {
    state.choosing = null;
    emit("choosing");
  } else if (await stage.cancelShown()) queue.soon();
  else if (state.view.kind === "compare") show({ kind: "one", id: state.view.a, group: null });
  else if (state.view.kind === "one" && state.view.group && state.view.group.jobs.length > 1) show({ kind: "group", group: state.view.group });
  else target.blur();
}

void begin();

