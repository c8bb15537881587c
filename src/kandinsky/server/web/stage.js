// The canvas in the middle: a welcome, images while they are drawn and after, two beside each other, or the easel.
import { ask, small } from "./api.js";
import { actions, retry } from "./actions.js";
import { button, fill, h, icon, put, say, set, toast } from "./dom.js";
import * as easel from "./easel.js";
import { duration, t } from "./i18n.js";
import { change, emit, groupOf, isEnded, jobs, line, note, on, show, state } from "./state.js";

/** @typedef {import("./state.js").Live} Live @typedef {import("./state.js").Group} Group */

const LARGEST_ZOOM = 6;

let stage = /** @type {HTMLElement} */ (document.body);
/** @type {Map<string, HTMLElement>} */
const tiles = new Map();
let began = { key: "", at: 0, share: 0 };

/** @param {HTMLElement} at */
export function build(at) {
  stage = at;
  on("view", render);
  on("language", render);
  on("job", update);
}

/** The jobs that the canvas shows. @returns {string[]} */
export function shown() {
  const view = state.view;
  if (view.kind === "group") return view.group.jobs;
  return view.kind === "one" ? [view.id] : [];
}

/** The one image that actions are for. */
export function chosen() {
  const ids = shown();
  return ids.length === 1 && ids[0] ? (jobs.get(ids[0]) ?? null) : null;
}

async function render() {
  tiles.clear();
  const view = state.view;
  const ids = [...shown(), ...(view.kind === "compare" ? [view.a, view.b] : [])];
  await Promise.all(ids.filter((id) => !jobs.has(id)).map(fetchOne));
  if (view !== state.view) return;
  if (view.kind === "easel") fill(stage, easel.mount());
  else fill(stage, h("div", { class: "view", id: "view", role: "group", "aria-label": t("canvas"), tabindex: -1 }, body(view)), h("div", { id: "progress" }), h("div", { id: "about" }));
  for (const id of ids) paint(id);
  rest();
}

/** @param {string} id */
async function fetchOne(id) {
  try {
    note(await ask("GET", `/api/jobs/${id}`));
  } catch {
    // It was deleted; its place stays empty.
  }
}

/** @param {import("./state.js").View} view */
function body(view) {
  if (view.kind === "group" && view.group.kind === "sheet") return sheet(view.group);
  if (view.kind === "group" && view.group.kind === "strip") return strip(view.group);
  if (view.kind === "compare") return compare(view.a, view.b);
  if (view.kind === "group" || view.kind === "one") return grid(shown());
  return welcome();
}

function welcome() {
  const examples = /** @type {const} */ (["example1", "example2", "example3", "example4"]);
  return h("div", { class: "welcome" },
    h("img", { src: "/web/mark.svg", alt: "", width: 72, height: 72 }),
    h("h2", {}, t("welcome")),
    h("p", {}, t("welcomeText")),
    h("div", { class: "chips" }, examples.map((one) => h("button", { type: "button", class: "chip", onclick: () => { change({ mode: "draw", prompt: t(one) }, true); document.getElementById("prompt")?.focus(); } }, t(one)))),
    button("open", t("openImage"), () => emit("image", "open"), { shown: true, id: "open-image" }),
  );
}

/** @param {string[]} ids */
function grid(ids) {
  const cols = Math.ceil(Math.sqrt(ids.length));
  const first = jobs.get(ids[0] ?? "")?.request ?? {};
  const ratio = Number(first["width"] ?? 1) / Number(first["height"] ?? 1) || 1;
  return h("div", { class: "tiles", vars: { "--cols": cols, "--rows": Math.ceil(ids.length / cols), "--ratio": ratio } }, ids.map((id) => tile(id, ids.length > 1)));
}

/** @param {Group} group */
function sheet(group) {
  const columns = group.columns.length || 1;
  const rows = Math.ceil(group.jobs.length / columns);
  const cell = `${Math.max(64, Math.min(240, Math.floor((stage.clientWidth - 140) / columns) - 8, Math.floor((stage.clientHeight - 180) / rows) - 8))}px`;
  const head = group.columns.length > 0 && h("thead", {}, h("tr", {}, group.rows.length > 0 && h("td", {}), group.columns.map((one) => h("th", { scope: "col" }, one))));
  const body_ = Array.from({ length: rows }, (_, y) => h("tr", {},
    group.rows.length > 0 && h("th", { scope: "row" }, group.rows[y] ?? ""),
    group.jobs.slice(y * columns, (y + 1) * columns).map((id) => h("td", {}, tile(id, true)))));
  return h("table", { class: "sheet", vars: { "--cell": cell } }, head, h("tbody", {}, body_));
}

/** @param {Group} group */
function strip(group) {
  return h("div", { class: "strip" }, group.jobs.map((id, i) => h("figure", {}, tile(id, true), h("figcaption", {}, group.columns[i] ?? ""))));
}

/** @param {string} id @param {boolean} opens */
function tile(id, opens) {
  const made = h(opens ? "button" : "div", { class: "tile", ...(opens ? { type: "button", onclick: () => open(id) } : {}) });
  tiles.set(id, made);
  return made;
}

/** @param {string} id */
function open(id) {
  if (jobs.get(id)?.state === "done") show({ kind: "one", id, group: groupOf(id) });
}

/** @param {string} id */
function paint(id) {
  const at = tiles.get(id);
  const job = jobs.get(id);
  if (!at) return;
  const name = job ? t("image", { prompt: line(job.request["prompt"]) }) : "";
  if (at instanceof HTMLButtonElement) at.setAttribute("aria-label", name);
  if (!job) return fill(at, h("div", { class: "wait" }, icon("close")));
  const [wide, tall] = job.size ?? [Number(job.request["width"] ?? 0), Number(job.request["height"] ?? 0)];
  // A small image is not blown up beyond what it can bear.
  if (wide && tall) set(at, { "--most-w": `${Math.max(wide * LARGEST_ZOOM, 96)}px`, "--most-h": `${Math.max(tall * LARGEST_ZOOM, 96)}px` });
  if (job.state === "done") {
    if (at.dataset["state"] !== "done") {
      const image = h("img", { src: `/api/images/${job.id}`, alt: name, width: job.size?.[0], height: job.size?.[1] });
      fill(at, image);
    }
    at.querySelector(".heart")?.remove();
    if (job.favourite && shown().length > 1) put(at, h("span", { class: "heart" }, icon("heart", true)));
  } else if (job.state === "failed") {
    fill(at, sorry(job));
  } else if (job.state === "cancelled") {
    fill(at, h("div", { class: "wait", vars: { "--shape": shapeOf(job) } },
      h("div", { class: "sorry" }, t("cancelled"), !(at instanceof HTMLButtonElement) && button("again", t("tryAgain"), () => retry(job), { shown: true, quiet: false, id: "again" }))));
  } else if (job.preview) {
    preview(at, job.preview);
  } else if (at.dataset["state"] !== job.state) {
    fill(at, h("div", { class: `wait${job.state === "running" ? " drawing" : ""}`, vars: { "--shape": shapeOf(job) } }, job.state === "queued" && shown().length < 30 ? t("waiting") : ""));
  }
  at.dataset["state"] = job.state;
}

/** @param {Live} job */
function shapeOf(job) {
  const { width, height } = job.request;
  return width && height ? `${width} / ${height}` : "1";
}

/** @param {HTMLElement} at @param {import("./state.js").Preview} preview */
function preview(at, preview) {
  let canvas = at.querySelector("canvas");
  if (!canvas) {
    canvas = h("canvas", { "aria-hidden": "true" });
    fill(at, canvas);
  }
  canvas.width = preview.width;
  canvas.height = preview.height;
  canvas.getContext("2d")?.putImageData(new ImageData(preview.data, preview.width, preview.height), 0, 0);
}

/** A failure, in words for people. @param {Live} job */
function sorry(job) {
  const kind = job.error?.type;
  const words = kind === "out of memory" ? t("failedMemory") : kind === "crash" ? t("failedCrash") : `${job.error?.message ?? ""} ${job.error?.hint ?? ""}`.trim();
  return h("div", { class: "wait", vars: { "--shape": shapeOf(job) } },
    h("div", { class: "sorry", role: "alert" }, icon("info"), h("strong", {}, t("failed")), h("small", {}, words),
      !(tiles.get(job.id) instanceof HTMLButtonElement) && button("again", t("tryAgain"), () => retry(job), { shown: true, quiet: false })));
}

/** @param {string} id */
function update(id) {
  if (tiles.has(id)) paint(id);
  if (tiles.has(id) || shown().includes(id)) rest();
}

/** How much of a job is done, 0 to 1. @param {Live | undefined} job */
export function share(job) {
  if (!job || isEnded(job)) return 1;
  const { stage: of = "", step = 0, total = 1 } = job.progress ?? {};
  if (job.state === "queued") return 0;
  if (of === "prior") return 0.02 + 0.13 * (step / total);
  if (of === "decoder") return 0.15 + 0.8 * (step / total);
  return of === "decoding" ? 0.97 : 0.01;
}

/** What is below the images: progress, or what is known of the one that is shown. */
function rest() {
  const progress = document.getElementById("progress");
  const about = document.getElementById("about");
  if (!progress || !about) return;
  const all = shown().map((id) => jobs.get(id)).filter((job) => job !== undefined);
  const open_ = all.filter((job) => !isEnded(job));
  if (open_.length) running(progress, all, open_);
  else fill(progress);
  progress.className = open_.length ? "progress" : "";
  const one = chosen();
  if (one?.state === "done" && state.view.kind !== "compare") aboutOne(about, one);
  else if (state.view.kind === "group" && state.view.group.kind === "sheet" && !open_.length) aboutSheet(about, state.view.group);
  else if (state.view.kind === "compare") aboutTwo(about, state.view.a, state.view.b);
  else {
    fill(about);
    about.className = "";
  }
}

/** @param {HTMLElement} at @param {Live[]} all @param {Live[]} open_ */
function running(at, all, open_) {
  const sum = all.reduce((part, job) => part + share(job), 0) / all.length;
  const key = all.map((job) => job.id).join();
  if (began.key !== key) began = { key, at: performance.now(), share: sum };
  const first = open_.find((job) => job.state === "running") ?? open_[0];
  if (!first) return;
  const words = phrase(first, all.length, all.length - open_.length, open_.filter((job) => job.state === "running").length);
  const eta = left(first, sum, open_);
  let bar = at.querySelector("i");
  if (!bar || at.dataset["of"] !== key) {
    at.dataset["of"] = key;
    bar = h("i", {});
    fill(at,
      h("div", { class: "bar", role: "progressbar", "aria-label": t("draw"), "aria-valuemin": 0, "aria-valuemax": 100 }, bar),
      h("div", { class: "words" }, h("span", { id: "progress-words" }), h("small", { id: "progress-left" })),
      button("stop", t("cancel"), () => cancelShown(), { shown: true, quiet: false, key: "Esc", id: "cancel" }));
  }
  const percent = Math.round(sum * 100);
  set(bar, { "--done": `${percent}%` });
  bar.parentElement?.setAttribute("aria-valuenow", String(percent));
  const [wordsAt, leftAt] = [document.getElementById("progress-words"), document.getElementById("progress-left")];
  if (wordsAt) wordsAt.textContent = words;
  if (leftAt) leftAt.textContent = eta;
  stepwise(percent, words);
}

let told = -1;

/** Tells a screen reader at every quarter, not at every step. @param {number} percent @param {string} words */
function stepwise(percent, words) {
  const quarter = Math.floor(percent / 25);
  if (quarter !== told) {
    told = quarter;
    say(`${words}, ${percent} %`);
  }
}

/** @param {Live} job @param {number} count @param {number} done @param {number} together */
function phrase(job, count, done, together) {
  const all = together === count ? t("drawingMany", { n: count }) : t("drawingOf", { n: Math.min(count, done + 1), all: count });
  const of = count > 1 ? `${all} · ` : "";
  if (job.state === "queued") {
    if (!state.options?.ready) return t("loading");
    return `${of}${t("waiting")}${job.before ? ` · ${t("waitingBefore", { n: job.before })}` : ""}`;
  }
  const { stage: at = "", step, total } = job.progress ?? {};
  const names = { text: t("stageText"), image: t("stageText"), prior: t("stagePrior"), decoder: t("stageDecoder"), decoding: t("stageDecoding"), waiting: t("waiting") };
  const name = names[/** @type {keyof typeof names} */ (at)] ?? t("starting");
  return `${of}${name}${step && total ? ` · ${t("stageOf", { step, total })}` : ""}`;
}

/** @param {Live} running @param {number} sum @param {Live[]} open_ */
function left(running, sum, open_) {
  const { eta, stage: at } = running.progress ?? {};
  if (open_.every((job) => job.state === "running") && at === "decoder" && eta !== undefined) return t("left", { time: duration(eta) });
  const done = sum - began.share;
  const seconds = (performance.now() - began.at) / 1000;
  return done > 0.08 && seconds > 1 ? t("left", { time: duration((seconds / done) * (1 - sum)) }) : "";
}

export async function cancelShown() {
  const ids = shown().filter((id) => !isEnded(jobs.get(id) ?? { state: "done" }));
  await Promise.all(ids.map((id) => ask("POST", `/api/jobs/${id}/cancel`).then(note, () => null)));
  ids.forEach((id) => emit("job", id));
  return ids.length;
}

/** @param {HTMLElement} at @param {Live} job */
function aboutOne(at, job) {
  const { request: asked } = job;
  const facts = [
    [t("seed"), job.seed], [t("size"), job.size?.join(" × ")], [t("steps"), asked["steps"]], [t("guidance"), asked["guidance_scale"]], [t("sampler"), asked["sampler"]],
    [t("strength"), asked["image"] && !asked["mask"] ? asked["strength"] : null],
    [t("time"), job.started && job.ended ? t("secondsShort", { n: Math.round((job.ended - job.started) * 10) / 10 }) : null],
  ].filter(([, value]) => value !== null && value !== undefined);
  const group = state.view.kind === "one" ? state.view.group : null;
  at.className = "about";
  const focus = document.activeElement?.id;
  fill(at,
    h("div", { class: "said" }, h("p", {}, line(asked["prompt"])), h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, String(name)), h("dd", {}, String(value)))))),
    h("div", { class: "acts" },
      group && group.jobs.length > 1 && button("grid", t("back"), () => show({ kind: "group", group }), { key: "Esc" }),
      actions(job)),
  );
  if (focus) document.getElementById(focus)?.focus();
}

/** @param {HTMLElement} at @param {Group} group */
function aboutSheet(at, group) {
  at.className = "about";
  fill(at, h("div", { class: "said" }, h("p", {}, line(jobs.get(group.jobs[0] ?? "")?.request["prompt"]))), h("div", { class: "acts" }, button("download", t("sheetSave"), () => saveSheet(group), { shown: true, quiet: false, id: "save-sheet" })));
}

/** Draws a sheet with its labels as one image, and hands it over. @param {Group} group */
async function saveSheet(group) {
  const columns = group.columns.length || 1;
  const rows = Math.ceil(group.jobs.length / columns);
  const side = Math.max(96, ...group.jobs.map((id) => Math.max(...(jobs.get(id)?.size ?? [96]))));
  const [left_, top] = [group.rows.length ? 120 : 0, group.columns.length ? 36 : 0];
  const canvas = h("canvas", { width: left_ + columns * (side + 8), height: top + rows * (side + 8) });
  const brush = canvas.getContext("2d");
  if (!brush) return;
  brush.fillStyle = "#ffffff";
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.fillStyle = "#1d1b18";
  brush.font = "16px sans-serif";
  brush.textBaseline = "middle";
  brush.textAlign = "center";
  group.columns.forEach((one, i) => brush.fillText(one, left_ + i * (side + 8) + side / 2, top / 2, side));
  group.rows.forEach((one, i) => brush.fillText(one, left_ / 2, top + i * (side + 8) + side / 2, left_ - 8));
  await Promise.all(group.jobs.map(async (id, i) => {
    if (jobs.get(id)?.state !== "done") return;
    const image = new Image();
    image.src = `/api/images/${id}`;
    await image.decode();
    const zoom = side / Math.max(image.width, image.height);
    brush.drawImage(image, left_ + (i % columns) * (side + 8), top + Math.floor(i / columns) * (side + 8), image.width * zoom, image.height * zoom);
  }));
  canvas.toBlob((blob) => {
    if (!blob) return;
    const address = URL.createObjectURL(blob);
    h("a", { href: address, download: "sheet.png" }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  });
}

/** @param {string} a @param {string} b */
function compare(a, b) {
  const tall = Math.max(...[a, b].map((id) => jobs.get(id)?.size?.[1] ?? 1024));
  const pair = h("div", { class: "pair", vars: { "--most-h": `${tall * LARGEST_ZOOM}px` } },
    [a, b].map((id, i) => h("img", { src: `/api/images/${id}`, alt: `${t(i ? "compareSecond" : "compareFirst")}: ${line(jobs.get(id)?.request["prompt"])}` })));
  pair.addEventListener("pointermove", (event) => {
    if (event.buttons || event.pointerType === "mouse") move(((event.clientX - pair.getBoundingClientRect().left) / pair.clientWidth) * 100);
  });
  const move = (/** @type {number} */ percent) => set(pair, { "--cut": `${Math.min(100, Math.max(0, percent))}%` });
  const bar = h("input", { type: "range", min: 0, max: 100, value: 50, id: "compare-bar", "aria-label": t("compareBar"), oninput: () => { move(Number(bar.value)); set(bar, { "--at": `${bar.value}%` }); } });
  return h("div", { class: "compare" }, pair, h("div", { class: "bars" }, h("label", {}, t("compareFirst"), bar, t("compareSecond")), button("close", t("close"), () => show({ kind: "one", id: a, group: groupOf(a) }), { key: "Esc" })));
}

/** @param {HTMLElement} at @param {string} a @param {string} b */
function aboutTwo(at, a, b) {
  const [one, two] = [jobs.get(a), jobs.get(b)];
  if (!one || !two) return;
  /** @param {Live} job @returns {Record<string, unknown>} */
  const facts = (job) => ({ ...job.request, prompt: line(job.request["prompt"]), seed: job.seed });
  const [left_, right] = [facts(one), facts(two)];
  const text = (/** @type {unknown} */ value) => (value === null || value === undefined ? "–" : typeof value === "object" ? "◨" : String(value));
  const names = Object.keys({ ...left_, ...right }).filter((name) => text(left_[name]) !== text(right[name]));
  at.className = "about";
  fill(at, names.length
    ? h("table", { class: "differ" }, h("thead", {}, h("tr", {}, h("th", {}), h("th", { scope: "col" }, t("compareFirst")), h("th", { scope: "col" }, t("compareSecond")))),
        h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row" }, label(name)), h("td", {}, text(left_[name])), h("td", {}, text(right[name]))))))
    : h("p", { class: "note" }, t("compareSame")));
}

/** @param {string} name */
function label(name) {
  const known = { prompt: t("prompt"), negative_prompt: t("negative"), seed: t("seed"), steps: t("steps"), guidance_scale: t("guidance"), sampler: t("sampler"), width: t("width"), height: t("height"), prior_steps: t("priorSteps"), prior_guidance_scale: t("priorGuidance"), strength: t("strength") };
  return known[/** @type {keyof typeof known} */ (name)] ?? name;
}

/** Says what has ended of what is shown. @param {Live} job */
export function tellEnd(job) {
  const ids = shown();
  if (!ids.includes(job.id)) return;
  const all = ids.map((id) => jobs.get(id)).filter((one) => one !== undefined);
  if (all.some((one) => !isEnded(one))) return;
  told = -1;
  const done = all.filter((one) => one.state === "done").length;
  if (done) say(t("done", { n: done }));
  if (job.state === "failed" && all.length > 1) toast(`${t("failed")}: ${job.error?.message ?? ""}`);
}

export { small };
