// What the page knows: the form, the server's options, jobs, and what the canvas shows.

import { t } from "./i18n.js";

/**
 * @typedef {import("./api.js").Job} Job
 * @typedef {import("./api.js").ImageRef} ImageRef
 * @typedef {{ width: number, height: number, data: Uint8ClampedArray<ArrayBuffer> }} Preview
 * @typedef {Job & { preview?: Preview }} Live
 * @typedef {{ kind: "text" | "image", text: string, image: ImageRef | null, weight: number }} Part
 * @typedef {{ param: string, values: string }} Axis
 * @typedef {{ left: number, top: number, right: number, bottom: number }} Sides
 * @typedef {"draw" | "edit" | "mix" | "sheet"} Mode
 * @typedef {{ mode: Mode, prompt: string, negative: string, shape: string, width: number | null, height: number | null,
 *   count: number, steps: number | null, guidance: number | null, sampler: string, seed: number | null,
 *   priorSteps: number | null, priorGuidance: number | null, lora: Record<string, number>, strength: number, exact: boolean, blur: number, weighted: boolean,
 *   source: ImageRef | null, hint: ImageRef | null, parts: Part[], strip: boolean, stripSteps: number, x: Axis, y: Axis,
 *   open: boolean }} Form
 * @typedef {{ kind: "images" | "strip" | "sheet", jobs: string[], columns: string[], rows: string[] }} Group
 * @typedef {{ kind: "welcome" } | { kind: "easel" } | { kind: "group", group: Group } |
 *   { kind: "one", id: string, group: Group | null } | { kind: "compare", a: string, b: string }} View
 */

/** @type {Form} */
const BLANK = {
  mode: "draw", prompt: "", negative: "", shape: "own", width: null, height: null, count: 1, steps: null, guidance: null,
  sampler: "", seed: null, priorSteps: null, priorGuidance: null, lora: {}, strength: 0.6, exact: true, blur: 4, weighted: false, source: null, hint: null,
  parts: [], strip: false, stripSteps: 5, x: { param: "guidance_scale", values: "" }, y: { param: "", values: "" },
  open: false,
};
export const MODES = /** @type {Mode[]} */ (["draw", "edit", "mix", "sheet"]);
const KEPT = 40;

/** @param {string} name @returns {any} */
function stored(name) {
  try {
    return JSON.parse(localStorage.getItem(name) ?? "null");
  } catch {
    return null;
  }
}

/** @param {string} name @param {unknown} value */
function keep(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // A full or forbidden storage: the page works, and forgets.
  }
}

/** @type {Form} */
export const form = { ...BLANK, ...stored("form") };

/** @type {{ options: import("./api.js").Options | null, view: View, choosing: string | null, online: boolean, painted: boolean }} Painted: a part of the picture, or beyond it. */
export const state = { options: null, view: { kind: "welcome" }, choosing: null, online: true, painted: false };

/** @type {Map<string, Live>} */
export const jobs = new Map();

const bus = new EventTarget();

/** @param {"form" | "mode" | "view" | "job" | "queue" | "gallery" | "choosing" | "language" | "image"} kind @param {(detail: any) => void} act */
export function on(kind, act) {
  bus.addEventListener(kind, (event) => act(/** @type {CustomEvent} */ (event).detail));
}

/** @param {Parameters<typeof on>[0]} kind @param {unknown} [detail] */
export function emit(kind, detail) {
  bus.dispatchEvent(new CustomEvent(kind, { detail }));
}

/** Changes the form; "mode" builds its fields anew. @param {Partial<Form>} changes @param {boolean} [anew] */
export function change(changes, anew = false) {
  Object.assign(form, changes);
  keep("form", form);
  emit(anew ? "mode" : "form");
}

/** @param {View} view */
export function show(view) {
  state.view = view;
  keep("view", view);
  emit("view");
}

/** @returns {View | null} */
export function lastView() {
  return stored("view");
}

/** @returns {Group[]} */
export function groups() {
  return stored("groups") ?? [];
}

/** @param {Group} group */
export function keepGroup(group) {
  keep("groups", [group, ...groups()].slice(0, KEPT));
}

/** The group that a job was asked in. @param {string} id */
export function groupOf(id) {
  return groups().find((one) => one.jobs.includes(id)) ?? null;
}

/** Remembers a job. What has ended stays so: an answer may come after the events that its request set off. @param {Job} job */
export function note(job) {
  const known = jobs.get(job.id);
  if (known && isEnded(known) && !isEnded(job)) return known;
  const live = { ...job, ...(known?.preview && !isEnded(job) ? { preview: known.preview } : {}) };
  jobs.set(job.id, live);
  return live;
}

/** @param {{ state: string }} job */
export function isEnded(job) {
  return !["queued", "running"].includes(job.state);
}

/** A prompt as a line for people. @param {any} prompt @returns {string} */
export function line(prompt) {
  if (typeof prompt === "string") return prompt;
  if (Array.isArray(prompt)) return prompt.map(line).join(" / ");
  if (!prompt || typeof prompt !== "object") return "";
  if (!Array.isArray(prompt.mix)) return prompt.embedding ? "(embedding)" : t("partImage");
  return prompt.mix.map((/** @type {any} */ one, /** @type {number} */ i) => `${line(one)} ${prompt.weights[i]}`).join(" + ");
}
