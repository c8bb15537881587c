// What waits to be drawn, and in which order.
import { ask } from "./api.js";
import { button, dialog, fill, h, say, set, toast } from "./dom.js";
import { t } from "./i18n.js";
import { emit, isEnded, jobs, line, note, on } from "./state.js";
import { share } from "./stage.js";

/** @type {string[]} */
let order = [];
/** @type {HTMLElement | null} */
let open = null;

/** @returns {number} */
export function length() {
  return order.filter((id) => !isEnded(jobs.get(id) ?? { state: "done" })).length;
}

export async function load() {
  const found = await ask("GET", "/api/queue").catch(() => null);
  if (found) take(found.jobs);
}

/** @param {import("./api.js").Job[]} found */
function take(found) {
  found.forEach(note);
  order = found.map((job) => job.id);
  emit("queue");
}

let timer = 0;

/** Asks for the order again, soon: many jobs come and go together. */
export function soon() {
  clearTimeout(timer);
  timer = window.setTimeout(load, 150);
}

on("queue", () => open && render(open));
on("job", (id) => {
  const row = open?.querySelector(`[data-id="${id}"] > i`);
  if (row instanceof HTMLElement) set(row, { "--done": `${Math.round(share(jobs.get(id)) * 100)}%` });
});

export async function show() {
  await load();
  await dialog((close) => {
    const list = h("div", {});
    open = list;
    render(list);
    return [h("header", {}, h("h2", {}, t("queue")), button("close", t("close"), () => close(), { id: "queue-close" })), list];
  }, { label: t("queue"), class: "drawer" });
  open = null;
}

/** @param {HTMLElement} at */
function render(at) {
  const focus = document.activeElement?.id;
  const all = order.map((id) => jobs.get(id)).filter((job) => job !== undefined);
  const running = all.filter((job) => job.state === "running");
  const waiting = all.filter((job) => job.state === "queued");
  const ids = waiting.map((job) => job.id);
  if (!running.length && !waiting.length) return fill(at, h("p", { class: "none" }, t("queueEmpty")));
  fill(at,
    running.length > 0 && [h("h3", { class: "label" }, t("queueRunning")), h("ul", { class: "jobs" }, running.map((job) => row(job, ids)))],
    waiting.length > 0 && [
      h("div", { class: "line" }, h("h3", { class: "label" }, `${t("queueWaiting")} · ${waiting.length}`), button("trash", t("queueClear"), () => clear(ids), { shown: true })),
      h("p", { class: "note" }, t("queueHint")),
      h("ol", { class: "jobs", id: "waiting" }, waiting.map((job) => row(job, ids)))]);
  if (focus) document.getElementById(focus)?.focus();
}

/** @param {import("./state.js").Live} job @param {string[]} ids */
function row(job, ids) {
  const prompt = line(job.request["prompt"]);
  const place = ids.indexOf(job.id);
  const to = (/** @type {number} */ at) => reorder(job.id, at, prompt);
  const made = h("li", { "data-id": job.id, draggable: place >= 0 ? "true" : null },
    h("div", { class: "what" }, h("p", {}, prompt), h("span", { class: "note" }, [job.request["width"] && `${job.request["width"]} × ${job.request["height"]}`, job.request["seed"] !== null && `${t("seed")} ${job.request["seed"]}`].filter(Boolean).join(" · "))),
    place >= 0 && [
      button("top", t("queueTop", { prompt }), () => to(0), { disabled: place === 0, id: `top-${job.id}` }),
      button("up", t("queueUp", { prompt }), () => to(place - 1), { disabled: place === 0, id: `up-${job.id}` }),
      button("down", t("queueDown", { prompt }), () => to(place + 1), { disabled: place === ids.length - 1, id: `down-${job.id}` })],
    button("close", t("queueCancel", { prompt }), () => cancel(job.id)),
    h("i", { vars: { "--done": `${Math.round(share(job) * 100)}%` } }));
  if (place >= 0) drag(made, job.id, ids);
  return made;
}

/** @param {HTMLElement} at @param {string} id @param {string[]} ids */
function drag(at, id, ids) {
  at.addEventListener("dragstart", (event) => event.dataTransfer?.setData("text/x-kandinsky-job", id));
  at.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("text/x-kandinsky-job")) return;
    event.preventDefault();
    at.classList.add("over");
  });
  at.addEventListener("dragleave", () => at.classList.remove("over"));
  at.addEventListener("drop", (event) => {
    const moved = event.dataTransfer?.getData("text/x-kandinsky-job");
    at.classList.remove("over");
    if (!moved) return;
    event.preventDefault();
    event.stopPropagation();
    reorder(moved, ids.indexOf(id), line(jobs.get(moved)?.request["prompt"]));
  });
}

/** @param {string} id @param {number} place @param {string} prompt */
async function reorder(id, place, prompt) {
  const waiting = order.filter((one) => jobs.get(one)?.state === "queued" && one !== id);
  waiting.splice(place, 0, id);
  try {
    take((await ask("PUT", "/api/queue", { order: waiting })).jobs);
    say(`${prompt}: ${place + 1} / ${waiting.length}`);
  } catch (error) {
    toast(t("sorry", { message: /** @type {Error} */ (error).message }));
  }
}

/** @param {string} id */
async function cancel(id) {
  note(await ask("POST", `/api/jobs/${id}/cancel`));
  emit("job", id);
  await load();
}

/** @param {string[]} ids */
async function clear(ids) {
  await Promise.all(ids.map((id) => ask("POST", `/api/jobs/${id}/cancel`).then(note, () => null)));
  ids.forEach((id) => emit("job", id));
  await load();
}
