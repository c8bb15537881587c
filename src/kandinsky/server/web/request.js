// The form as requests to the server, and back.
import { send, submit } from "./api.js";
import { toast } from "./dom.js";
import { t } from "./i18n.js";
import { change, emit, form, keepGroup, note, show, state } from "./state.js";

/**
 * @typedef {import("./api.js").Fields} Fields
 * @typedef {import("./state.js").Form} Form
 * @typedef {{ fields: Fields, lora: Record<string, number> | null }} Asked
 */

export const MOST_CELLS = 100;
const LARGEST_EXACT = 2.25;
export const SHAPES = /** @type {const} */ ({ square: [1, 1], landscape: [4, 3], portrait: [3, 4], wide: [16, 9], tall: [9, 16] });

/** Something that the form lacks; the message is for people. */
export class Lacking extends Error {
  /** @param {string} message @param {string} field */
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** The size of a shape at about the model's own area, in steps of 8 or, for large models, of 64. @param {string} shape @returns {[number, number]} */
export function sizeOf(shape) {
  const { width = 64, height = 64 } = state.options?.defaults ?? {};
  const ratio = SHAPES[/** @type {keyof typeof SHAPES} */ (shape)];
  if (!ratio) return [width, height];
  return sizeLike(ratio[0], ratio[1], width >= 512 ? 64 : 8);
}

/** The shape of a size at about the model's own area. @param {number} wide @param {number} tall @param {number} step @returns {[number, number]} */
function sizeLike(wide, tall, step) {
  const { width = 64, height = 64 } = state.options?.defaults ?? {};
  const side = (/** @type {number} */ n) => Math.max(step, Math.round(n / step) * step);
  return [side(Math.sqrt((width * height * wide) / tall)), side(Math.sqrt((width * height * tall) / wide))];
}

/** @returns {[number, number]} */
export function size() {
  if (form.shape === "custom") {
    const own = sizeOf("own");
    return [form.width ?? own[0], form.height ?? own[1]];
  }
  return sizeOf(form.shape);
}

/** What all modes share. @returns {Fields} */
function common() {
  /** @type {Fields} */
  const fields = {};
  if (form.negative.trim()) fields["negative_prompt"] = form.negative.trim();
  const own = { steps: form.steps, guidance_scale: form.guidance, seed: form.seed, prior_steps: form.priorSteps, prior_guidance_scale: form.priorGuidance };
  for (const [name, value] of Object.entries(own)) if (value !== null) fields[name] = value;
  if (form.weighted) fields["prompt_weights"] = true;
  if (form.sampler) fields["sampler"] = form.sampler;
  if (form.hint && state.options?.takes["hint"]) fields["hint"] = form.hint;
  return fields;
}

/** @returns {Fields} */
function sized() {
  if (form.shape === "own") return {};
  const [width, height] = size();
  return { width, height };
}

/** The adapters of the form, None where they are the usual ones. */
function lora() {
  const usual = state.options?.lora ?? {};
  /** @type {Record<string, number>} */
  const found = {};
  for (const name of Object.keys(usual)) found[name] = form.lora[name] ?? usual[name] ?? 0;
  return Object.keys(found).some((name) => found[name] !== usual[name]) ? found : null;
}

/** @returns {number} */
export function anySeed() {
  return crypto.getRandomValues(new Uint32Array(1))[0] ?? 0;
}

/** @returns {string} */
function prompt() {
  const text = form.prompt.trim();
  if (!text) throw new Lacking(t("noPrompt"), "prompt");
  return text;
}

/**
 * Asks for what the form says, and shows it.
 * @param {() => Promise<import("./easel.js").Painted | null>} painted What the easel holds, where something is painted.
 */
export async function draw(painted) {
  if (form.mode === "sheet") return drawMany(sheet(), { kind: "sheet" });
  if (form.mode === "mix" && form.strip) return drawMany(strip(), { kind: "strip" });
  /** @type {Fields} */
  let fields;
  if (form.mode === "mix") fields = { ...common(), ...sized(), prompt: { mix: items(), weights: form.parts.map((part) => part.weight) } };
  else if (form.mode === "edit") fields = await edit(painted);
  else fields = { ...common(), ...sized(), prompt: prompt() };
  const found = await submit({ ...fields, count: form.count }, lora());
  found.forEach(note);
  const group = { kind: /** @type {const} */ ("images"), jobs: found.map((job) => job.id), columns: [], rows: [] };
  keepGroup(group);
  show({ kind: "group", group });
  return found.length;
}

/** @param {() => Promise<import("./easel.js").Painted | null>} painted @returns {Promise<Fields>} */
async function edit(painted) {
  if (!form.source) throw new Lacking(t("noSource"), "source");
  const text = prompt();
  const made = await painted();
  if (!made && state.options?.takes["only_masks"]) throw new Lacking(t("paintNeeded"), "source");
  if (!made) return { ...common(), prompt: text, image: form.source, strength: form.strength };
  if ("margins" in made) {
    return { ...common(), prompt: text, image: form.source, outpaint: made.margins, ...pasted(), ...drawable(made, true) };
  }
  const image = await send(made.image);
  const mask = await send(made.mask, true);
  const masked = { ...common(), prompt: text, image: { sha256: image.sha256 }, mask: { sha256: mask.sha256 } };
  return { ...masked, ...pasted(), ...drawable(image, form.exact) };
}

/**
 * What is extended, or kept to the pixel, is drawn at its own size: not where that is far beyond the model's.
 * @param {{ width: number, height: number }} picture @param {boolean} whole @returns {Fields}
 */
function drawable(picture, whole) {
  const [wide, tall] = sizeOf("own");
  if (!whole || picture.width * picture.height <= LARGEST_EXACT * wide * tall) return {};
  const [width, height] = sizeLike(picture.width, picture.height, 8);
  toast(t("drawnSmaller", { size: `${width} × ${height}` }));
  return { width, height };
}

/** @returns {Fields} */
function pasted() {
  return form.exact ? { paste_back: true, ...(form.blur ? { mask_blur: form.blur } : {}) } : {};
}

/** @returns {(string | import("./api.js").ImageRef)[]} */
function items() {
  const given = form.parts.map((part) => (part.kind === "text" ? part.text.trim() : part.image));
  if (!given.length || given.some((one) => !one)) throw new Lacking(t("noMix"), "parts");
  return /** @type {(string | import("./api.js").ImageRef)[]} */ (given);
}

/** @returns {{ cells: Asked[], columns: string[], rows: string[] }} */
function strip() {
  const [a, b] = items();
  if (!a || !b) throw new Lacking(t("noMix"), "parts");
  const shares = Array.from({ length: form.stripSteps }, (_, i) => i / Math.max(1, form.stripSteps - 1));
  const fixed = { ...common(), ...sized(), seed: form.seed ?? anySeed() };
  const cells = shares.map((share) => {
    const ends = share === 0 ? { mix: [a], weights: [1] } : share === 1 ? { mix: [b], weights: [1] } : null;
    const between = { mix: [a, b], weights: [round(1 - share), round(share)] };
    return { fields: { ...fixed, prompt: ends ?? between }, lora: lora() };
  });
  return { cells, columns: shares.map((share) => `${Math.round(share * 100)} %`), rows: [] };
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 1000) / 1000;
}

/** The values of an axis: "1, 2, 3", "1..5" or "0..1 step 0.25". @param {string} text */
export function values(text) {
  return text.split(",").flatMap((one) => {
    const range = /^\s*(-?[\d.]+)\s*\.\.\s*(-?[\d.]+)(?:\s*(?:step|шаг)\s*([\d.]+))?\s*$/.exec(one);
    if (!range) return one.trim() ? [one.trim()] : [];
    const [from, to, step] = [Number(range[1]), Number(range[2]), Number(range[3] ?? 1)];
    const length = Math.floor(Math.abs(to - from) / (step || 1) + 1e-9) + 1;
    return Array.from({ length: Math.min(length, MOST_CELLS) }, (_, i) => String(round(from + Math.sign(to - from) * i * (step || 1))));
  });
}

/** @param {import("./state.js").Axis} axis */
function axis(axis) {
  return axis.param ? values(axis.values) : [];
}

/** How many images the sheet of the form has. */
export function cells() {
  return Math.max(1, axis(form.x).length) * Math.max(1, axis(form.y).length);
}

/** @returns {{ cells: Asked[], columns: string[], rows: string[] }} */
function sheet() {
  prompt();
  const columns = axis(form.x);
  const rows = axis(form.y);
  if (!columns.length && !rows.length) throw new Lacking(t("sheetEmpty"), "x");
  if (cells() > MOST_CELLS) throw new Lacking(t("sheetMany", { n: MOST_CELLS }), "x");
  const base = { fields: { ...common(), ...sized(), prompt: prompt(), seed: form.seed ?? anySeed() }, lora: lora() };
  const found = (rows.length ? rows : [""]).flatMap((row) =>
    (columns.length ? columns : [""]).map((column) => {
      const across = columns.length ? changed(base, form.x.param, column, columns) : base;
      return rows.length ? changed(across, form.y.param, row, rows) : across;
    }),
  );
  return { cells: found, columns, rows };
}

/** @param {Asked} asked @param {string} param @param {string} value @param {string[]} all @returns {Asked} */
function changed(asked, param, value, all) {
  if (param.startsWith("lora:")) {
    const usual = { ...state.options?.lora, ...asked.lora };
    return { fields: asked.fields, lora: { ...usual, [param.slice(5)]: Number(value) } };
  }
  if (param === "prompt") {
    const word = all[0] ?? "";
    const text = String(asked.fields["prompt"]);
    if (!text.includes(word)) throw new Lacking(t("sheetWord", { word }), "x");
    return { ...asked, fields: { ...asked.fields, prompt: text.replaceAll(word, value) } };
  }
  return { ...asked, fields: { ...asked.fields, [param]: param === "sampler" ? value : Number(value) } };
}

/** @param {{ cells: Asked[], columns: string[], rows: string[] }} many @param {{ kind: "strip" | "sheet" }} how */
async function drawMany(many, how) {
  /** @type {string[]} */
  const ids = [];
  for (const one of many.cells) {
    const [job] = await submit({ ...one.fields, count: 1 }, one.lora);
    if (job) ids.push(note(job).id);
  }
  const group = { ...how, jobs: ids, columns: many.columns, rows: many.rows };
  keepGroup(group);
  show({ kind: "group", group });
  return ids.length;
}

/**
 * Puts a request into the form. `have` says whether an image is on the server; returns whether all of them were.
 * @param {Fields} request @param {Record<string, number>} adapters @param {(sha: string) => Promise<boolean>} have
 */
export async function restore(request, adapters, have) {
  const defaults = state.options?.defaults ?? {};
  const own = (/** @type {string} */ name) => (typeof request[name] === "number" && request[name] !== defaults[name] ? request[name] : null);
  const [width, height] = [request["width"] ?? null, request["height"] ?? null];
  const shape = shapeOf(width, height);
  let whole = true;
  const kept = async (/** @type {any} */ image) => {
    if (image?.sha256 && (await have(image.sha256))) return { sha256: image.sha256 };
    if (image) whole = false;
    return null;
  };
  /** @type {Partial<Form>} */
  const changes = {
    negative: typeof request["negative_prompt"] === "string" ? request["negative_prompt"] : "",
    ...(request["image"] ? {} : { shape, width: shape === "custom" ? width : null, height: shape === "custom" ? height : null }), count: 1,
    steps: own("steps"), guidance: own("guidance_scale"), priorSteps: own("prior_steps"), priorGuidance: own("prior_guidance_scale"),
    sampler: request["sampler"] && request["sampler"] !== defaults["sampler"] && state.options?.samplers.includes(request["sampler"]) ? request["sampler"] : "",
    seed: typeof request["seed"] === "number" ? request["seed"] : null,
    lora: { ...Object.fromEntries(Object.keys(state.options?.lora ?? {}).map((name) => [name, 0])), ...adapters },
    weighted: request["prompt_weights"] === true,
    strength: request["strength"] ?? form.strength, strip: false, open: true,
  };
  const asked = request["prompt"];
  /** @type {import("./easel.js").Before} */
  const before = { sides: request["outpaint"] ?? null, mask: null };
  if (typeof asked === "string" || !asked) {
    const source = await kept(request["image"]);
    before.mask = await kept(request["mask"]);
    if (before.mask || before.sides) Object.assign(changes, { exact: request["paste_back"] === true, blur: request["mask_blur"] ?? 0 });
    Object.assign(changes, { prompt: asked ?? "", mode: request["image"] ? "edit" : "draw", source });
  } else {
    const given = asked.mix ?? [asked];
    const parts = [];
    for (const [i, one] of given.entries()) {
      const weight = asked.weights?.[i] ?? 1;
      if (typeof one === "string") parts.push({ kind: /** @type {const} */ ("text"), text: one, image: null, weight });
      else {
        const image = await kept(one);
        if (image) parts.push({ kind: /** @type {const} */ ("image"), text: "", image, weight });
      }
    }
    Object.assign(changes, { mode: "mix", parts });
  }
  change(changes, true);
  if (!form.source || form.mode !== "edit") return whole;
  emit("image", { before });
  if (before.sides || before.mask) show({ kind: "easel" });
  return whole;
}

/** @param {number | null} width @param {number | null} height */
function shapeOf(width, height) {
  if (!width || !height) return "own";
  for (const name of ["own", ...Object.keys(SHAPES)]) {
    const [w, h] = sizeOf(name);
    if (w === width && h === height) return name;
  }
  return "custom";
}
