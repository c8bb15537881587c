// The controls at the left.
import { address, send } from "./api.js";
import { button, fill, fresh, h, icon, set, toast } from "./dom.js";
import { t } from "./i18n.js";
import { cells, MOST_CELLS, SHAPES, size, sizeOf } from "./request.js";
import { change, emit, form, MODES, on, show, state } from "./state.js";

/** @typedef {"steps" | "guidance" | "priorSteps" | "priorGuidance"} Tunable */

let panel = /** @type {HTMLElement} */ (document.body);
let drawing = /** @type {() => void} */ (() => {});

/** @param {HTMLElement} at @param {() => void} draw */
export function build(at, draw) {
  panel = at;
  drawing = draw;
  on("mode", render);
  on("language", render);
  on("form", fresher);
  render();
}

function render() {
  const before = document.activeElement?.id;
  const top = panel.querySelector(".scroll")?.scrollTop ?? 0;
  const parts = { draw: drawFields, edit: editFields, mix: mixFields, sheet: sheetFields };
  const send = h("button", { type: "submit", class: "btn primary", id: "go" }, h("span", { id: "go-words" }), h("kbd", { "aria-hidden": "true" }, "Ctrl ↵"));
  fill(
    panel,
    h("div", { class: "modes" }, modes()),
    h(
      "form",
      { class: "scroll", id: "form", role: "tabpanel", novalidate: true, "aria-labelledby": `mode-${form.mode}`, onsubmit: (/** @type {Event} */ event) => { event.preventDefault(); drawing(); } },
      h("div", { class: "fields" }, parts[form.mode](), adapters(), details()),
    ),
    h("div", { class: "go" }, send),
  );
  send.setAttribute("form", "form");
  const scroll = panel.querySelector(".scroll");
  if (scroll) scroll.scrollTop = top;
  if (before) document.getElementById(before)?.focus();
  fresher();
}

/** What depends on other fields. */
function fresher() {
  const words = document.getElementById("go-words");
  if (words) {
    const n = form.mode === "sheet" ? cells() : form.mode === "mix" && form.strip ? form.stripSteps : form.count;
    words.textContent = n > 1 ? `${t("draw")} · ${n}` : t("draw");
  }
  const count = document.getElementById("sheet-count");
  if (count) count.textContent = cells() > MOST_CELLS ? t("sheetMany", { n: MOST_CELLS }) : t("sheetSize", { n: cells() });
  const [whole, kept] = ["whole-field", "kept-field"].map((id) => document.getElementById(id));
  if (whole) whole.hidden = state.painted;
  if (kept) kept.hidden = !state.painted;
  const shape = document.getElementById("shape-size");
  if (shape) shape.textContent = size().join(" × ");
  const sum = document.getElementById("mix-sum");
  if (sum) sum.textContent = t("sum", { n: form.parts.reduce((all, part) => all + part.weight, 0) });
}

function modes() {
  const tabs = MODES.map((mode) =>
    h("button", {
      type: "button", role: "tab", id: `mode-${mode}`, "aria-selected": String(mode === form.mode), "aria-controls": "form",
      tabindex: mode === form.mode ? 0 : -1,
      onclick: () => choose(mode),
    }, t(mode)),
  );
  const list = h("div", { class: "segments", role: "tablist", "aria-label": t("mode") }, tabs);
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = MODES[(MODES.indexOf(form.mode) + step + MODES.length) % MODES.length];
    if (next) choose(next);
    document.getElementById(`mode-${form.mode}`)?.focus();
  });
  return list;
}

/** @param {import("./state.js").Mode} mode */
export function choose(mode) {
  change({ mode }, true);
  if (mode === "edit" && form.source) show({ kind: "easel" });
  else if (state.view.kind === "easel") show({ kind: "welcome" });
}

function drawFields() {
  return [promptField("promptDraw"), wordChips(), negative(), hint(), shapes(), count()];
}

function editFields() {
  return [slot(), form.source && h("p", { class: "note" }, t("paintHint")), promptField("promptEdit"), wordChips(), form.source && strength(), form.source && exact(), negative(), count()];
}

function mixFields() {
  if (state.options && !state.options.takes["mix"]) return [h("p", { class: "note" }, t("mixNot"))];
  return [
    h("p", { class: "note" }, t("mixHint")),
    form.parts.length > 0 && h("ul", { class: "parts", "aria-label": t("mix") }, form.parts.map(card)),
    h("div", { class: "line wrap" },
      button("text", t("addText"), () => addPart({ kind: "text", text: "", image: null, weight: 0.5 }), { shown: true, quiet: false, id: "add-text" }),
      button("image", t("addImage"), () => pick((image) => addPart({ kind: "image", text: "", image, weight: 0.5 })), { shown: true, quiet: false, id: "add-image" }),
    ),
    h("p", { class: "note", id: "mix-sum" }),
    form.parts.length > 1 && stripField(),
    negative(), shapes(), form.strip ? null : count(),
  ];
}

function sheetFields() {
  return [promptField("promptDraw"), axisField("x", t("axisX")), axisField("y", t("axisY")), h("p", { class: "note" }, t("axisHint")), h("p", { class: "note", id: "sheet-count" }), negative(), shapes()];
}

/** @param {"promptDraw" | "promptEdit"} hintKey */
function promptField(hintKey) {
  return h("div", { class: "field" },
    h("label", { for: "prompt" }, t("prompt")),
    h("textarea", { id: "prompt", class: "input big", rows: 4, placeholder: t(hintKey), value: form.prompt, oninput: typed((prompt) => change({ prompt })) }),
  );
}

function negative() {
  return h("div", { class: "field" },
    h("label", { for: "negative" }, t("negative")),
    h("input", { id: "negative", class: "input", placeholder: t("negativeHint"), value: form.negative, oninput: typed((text) => change({ negative: text })) }),
  );
}

function wordChips() {
  const words = state.options?.words ?? [];
  return words.length > 0 && h("div", { class: "field" },
    h("span", { class: "label" }, t("words")),
    h("div", { class: "chips" }, words.map((word) => h("button", { type: "button", class: "chip", onclick: () => insert(word) }, word))),
  );
}

/** @param {string} word */
function insert(word) {
  const box = /** @type {HTMLTextAreaElement} */ (document.getElementById("prompt"));
  const begin = box.selectionStart;
  const gap = begin > 0 && !/\s$/.test(box.value.slice(0, begin)) ? " " : "";
  box.setRangeText(`${gap}${word} `, begin, box.selectionEnd, "end");
  box.focus();
  change({ prompt: box.value });
}

function shapes() {
  const own = sizeOf("own");
  const names = /** @type {(keyof typeof SHAPES)[]} */ (Object.keys(SHAPES));
  const current = form.shape === "own" ? (own[0] === own[1] ? "square" : "") : form.shape;
  const buttons = names.map((name) => {
    const [w, tall] = SHAPES[name];
    const zoom = 20 / Math.max(w, tall);
    return h("button", { type: "button", title: `${t(name)}, ${sizeOf(name).join(" × ")}`, "aria-label": t(name), "aria-pressed": String(name === current), onclick: () => change({ shape: name === "square" && own[0] === own[1] ? "own" : name, width: null, height: null }, true) },
      h("i", { vars: { "--w": w * zoom, "--h": tall * zoom } }), `${w}:${tall}`);
  });
  return h("div", { class: "field", role: "group", "aria-label": t("shape") },
    h("div", { class: "line" }, h("span", { class: "label" }, t("shape")), h("span", { class: "note", id: "shape-size" })),
    h("div", { class: "shapes" }, buttons),
  );
}

function count() {
  const input = h("input", { id: "count", type: "number", min: 1, max: 64, value: form.count, onchange: typed((text) => to(Number(text))) });
  const to = (/** @type {number} */ n) => {
    const next = Math.min(64, Math.max(1, Math.round(n) || 1));
    input.value = String(next);
    change({ count: next });
  };
  return h("div", { class: "line" },
    h("label", { class: "label", for: "count" }, t("count")),
    h("div", { class: "stepper" }, button("minus", t("fewer"), () => to(form.count - 1)), input, button("plus", t("moreOf"), () => to(form.count + 1))),
  );
}

/** A number that is the model's own until it is changed. @param {Tunable} name @param {string} label @param {number | undefined} own @param {{ min: number, max: number, step: number }} range */
function tunable(name, label, own, range) {
  const id = `field-${name}`;
  const box = h("div", { class: "field" });
  const value = () => form[name] ?? own ?? range.min;
  const slider = h("input", { type: "range", ...range, "aria-label": label, oninput: typed((text) => to(Number(text))) });
  const number = h("input", { id, class: "input small", type: "number", min: range.min, step: range.step, placeholder: own === undefined ? t("auto") : String(own), onchange: typed((text) => to(text === "" ? null : Number(text))) });
  const reset = button("undo", `${t("reset")}: ${label}`, () => { to(null); number.focus(); });
  const paint = () => {
    slider.value = String(value());
    set(slider, { "--at": `${Math.min(100, Math.max(0, ((value() - range.min) / (range.max - range.min)) * 100))}%` });
    number.value = form[name] === null ? "" : String(form[name]);
    box.classList.toggle("auto", form[name] === null);
    reset.hidden = form[name] === null;
  };
  const to = (/** @type {number | null} */ next) => {
    change({ [name]: next === null || Number.isNaN(next) ? null : next });
    paint();
  };
  fill(box, h("div", { class: "line" }, h("label", { class: "label", for: id }, label), reset, number), slider);
  paint();
  return box;
}

function details() {
  const { defaults = /** @type {import("./api.js").Fields} */ ({}), samplers = [], takes = {} } = state.options ?? {};
  const seed = h("input", { id: "seed", class: "input", inputmode: "numeric", placeholder: t("random"), value: form.seed ?? "", oninput: typed((text) => change({ seed: /^\d+$/.test(text.trim()) ? Number(text.trim()) : null })) });
  const sides = /** @type {const} */ (["width", "height"]).map((side, i) =>
    h("div", { class: "field" }, h("label", { for: `side-${side}` }, t(side)),
      h("input", { id: `side-${side}`, class: "input", type: "number", min: 8, max: 8192, step: 8, value: size()[i], onchange: typed((text) => { const [width, height] = size(); change({ shape: "custom", width, height, [side]: Number(text) || null }, true); }) })),
  );
  const weighted = h("input", { type: "checkbox", id: "weighted", checked: form.weighted, onchange: () => change({ weighted: weighted.checked }) });
  const inside = h("div", {},
    h("div", { class: "line" }, weighted, h("label", { for: "weighted" }, t("weighted"))),
    tunable("steps", t("steps"), defaults["steps"], { min: 1, max: 100, step: 1 }),
    tunable("guidance", t("guidance"), defaults["guidance_scale"], { min: 1, max: 15, step: 0.5 }),
    h("div", { class: "field" }, h("label", { for: "sampler" }, t("sampler")),
      h("select", { id: "sampler", class: "input", onchange: typed((sampler) => change({ sampler })) },
        h("option", { value: "" }, `${t("auto")}${defaults["sampler"] ? ` (${defaults["sampler"]})` : ""}`),
        samplers.map((one) => h("option", { value: one, selected: one === form.sampler }, one)))),
    h("div", { class: "field" }, h("label", { for: "seed" }, t("seed")),
      h("div", { class: "line" }, seed, button("dice", t("roll"), () => { seed.value = ""; change({ seed: null }); }, { quiet: false }))),
    form.mode !== "edit" && h("div", { class: "line" }, sides),
    takes["prior"] && tunable("priorSteps", t("priorSteps"), defaults["prior_steps"], { min: 1, max: 50, step: 1 }),
    takes["prior"] && tunable("priorGuidance", t("priorGuidance"), defaults["prior_guidance_scale"], { min: 1, max: 10, step: 0.5 }),
  );
  return h("details", { class: "more", id: "details", open: form.open, ontoggle: (/** @type {Event} */ event) => change({ open: /** @type {HTMLDetailsElement} */ (event.target).open }) }, h("summary", {}, t("details")), inside);
}

function adapters() {
  const offered = Object.entries(state.options?.lora ?? {});
  return offered.length > 0 && h("div", { class: "field", role: "group", "aria-label": t("adapters") },
    h("span", { class: "label" }, t("adapters")),
    offered.map(([name, usual]) => {
      const id = fresh("lora");
      const scale = () => form.lora[name] ?? usual;
      const slider = h("input", { type: "range", min: 0, max: 2, step: 0.05, value: scale(), "aria-label": `${name}`, oninput: typed((text) => to(Number(text))) });
      const check = h("input", { type: "checkbox", id, onchange: () => to(check.checked ? usual || 1 : 0) });
      const number = h("span", { class: "note" });
      const paint = () => {
        check.checked = scale() !== 0;
        slider.hidden = !check.checked;
        slider.value = String(scale());
        set(slider, { "--at": `${scale() * 50}%` });
        number.textContent = check.checked ? scale().toFixed(2) : "";
      };
      const to = (/** @type {number} */ next) => { change({ lora: { ...form.lora, [name]: next } }); paint(); };
      paint();
      return h("div", { class: "field" }, h("div", { class: "line" }, check, h("label", { for: id }, name), number), slider);
    }),
  );
}

function strength() {
  const slider = h("input", { id: "strength", type: "range", min: 0.05, max: 1, step: 0.05, value: form.strength, oninput: typed((text) => { change({ strength: Number(text) }); paint(); }) });
  const number = h("span", { class: "note" });
  const paint = () => { set(slider, { "--at": `${((form.strength - 0.05) / 0.95) * 100}%` }); number.textContent = form.strength.toFixed(2); };
  paint();
  return h("div", { class: "field", id: "whole-field" },
    h("div", { class: "line" }, h("label", { class: "label", for: "strength" }, t("strength")), number), slider,
    h("div", { class: "line note" }, h("span", { class: "label" }, t("strengthLow")), t("strengthHigh")),
  );
}

/** What becomes of that which is not painted over. */
function exact() {
  const check = h("input", { type: "checkbox", id: "exact", checked: form.exact, onchange: () => { change({ exact: check.checked }); paint(); } });
  const slider = h("input", { id: "blur", type: "range", min: 0, max: 32, value: form.blur, "aria-label": t("blur"), oninput: typed((text) => { change({ blur: Number(text) }); paint(); }) });
  const number = h("span", { class: "note" });
  const soft = h("div", { class: "field" }, h("div", { class: "line" }, h("label", { class: "label", for: "blur" }, t("blur")), number), slider);
  const paint = () => { soft.hidden = !check.checked; number.textContent = `${form.blur} px`; set(slider, { "--at": `${(form.blur / 32) * 100}%` }); };
  paint();
  return h("div", { class: "field", id: "kept-field" }, h("div", { class: "line" }, check, h("label", { for: "exact" }, t("exact"))), soft);
}

/** A place for a picture. */
function slot() {
  return imageSlot(t("source"), t("sourceHint"), form.source, {
    set: (image) => { change({ source: image }, true); emit("image"); if (image) show({ kind: "easel" }); },
    more: () => button("brush", t("brush"), () => show({ kind: "easel" }), { shown: true, quiet: false }),
  });
}

function hint() {
  return state.options?.takes["hint"] ? imageSlot(t("hint"), t("hintHint"), form.hint, { set: (image) => change({ hint: image }, true) }) : null;
}

/** @param {string} label @param {string} words @param {import("./api.js").ImageRef | null} image @param {{ set: (image: import("./api.js").ImageRef | null) => void, more?: () => HTMLElement }} how */
function imageSlot(label, words, image, how) {
  const picked = () => pick(how.set);
  return h("div", { class: "field", role: "group", "aria-label": label },
    h("span", { class: "label" }, label),
    image
      ? h("div", { class: "slot full" }, h("img", { src: address(image), alt: label }),
          h("div", { class: "grow" }, how.more?.(), h("div", { class: "line" },
            button("open", t("replace"), picked, {}), button("trash", t("remove"), () => how.set(null), {}))))
      : h("div", { class: "slot" }, icon("image"), h("div", { class: "grow" }, h("p", { class: "note" }, words), button("open", t("choose"), picked, { shown: true, quiet: false, id: "choose" }))),
  );
}

/** @param {import("./state.js").Part} part @param {number} index */
function card(part, index) {
  const name = part.kind === "text" ? part.text || t("part", { n: index + 1 }) : `${t("partImage")} ${index + 1}`;
  const put = (/** @type {Partial<import("./state.js").Part>} */ changes) => change({ parts: form.parts.map((one, i) => (i === index ? { ...one, ...changes } : one)) });
  const number = h("input", { class: "input small", type: "number", step: 0.05, value: part.weight, "aria-label": t("weight", { name }), onchange: typed((text) => to(Number(text) || 0)) });
  const slider = h("input", { type: "range", min: 0, max: 1.5, step: 0.05, value: part.weight, "aria-label": t("weight", { name }), oninput: typed((text) => to(Number(text))) });
  const paint = (/** @type {number} */ value) => { slider.value = String(value); number.value = String(value); set(slider, { "--at": `${Math.min(100, Math.max(0, value / 1.5 * 100))}%` }); };
  const to = (/** @type {number} */ value) => { put({ weight: value }); paint(value); };
  paint(part.weight);
  return h("li", { class: "card" },
    h("span", { class: "letter", "aria-hidden": "true" }, String.fromCharCode(65 + index)),
    part.kind === "text"
      ? h("input", { class: "input", id: `part-${index}`, value: part.text, placeholder: t("partText"), "aria-label": t("part", { n: index + 1 }), oninput: typed((text) => put({ text })) })
      : h("img", { src: part.image ? address(part.image) : "", alt: name }),
    button("close", `${t("remove")}: ${name}`, () => change({ parts: form.parts.filter((_, i) => i !== index) }, true)),
    h("div", { class: "weight" }, slider, number),
  );
}

/** @param {import("./state.js").Part} part */
export function addPart(part) {
  change({ mode: "mix", parts: [...form.parts, part] }, true);
  document.getElementById(`part-${form.parts.length - 1}`)?.focus();
}

function stripField() {
  const check = h("input", { type: "checkbox", id: "strip", checked: form.strip, onchange: () => change({ strip: check.checked }, true) });
  return h("div", { class: "field" },
    h("div", { class: "line" }, check, h("label", { for: "strip" }, t("strip"))),
    form.strip && h("div", { class: "line" }, h("label", { class: "label", for: "strip-steps" }, t("stripSteps")),
      h("input", { id: "strip-steps", class: "input small", type: "number", min: 2, max: 15, value: form.stripSteps, onchange: typed((text) => change({ stripSteps: Math.min(15, Math.max(2, Number(text) || 5)) })) })),
  );
}

/** @param {"x" | "y"} axis @param {string} label */
function axisField(axis, label) {
  const { takes = {}, lora = {} } = state.options ?? {};
  /** @type {[string, string][]} */
  const params = [["", t("axisNone")], ["prompt", t("axisPrompt")], ["seed", t("seed")], ["steps", t("steps")], ["guidance_scale", t("guidance")], ["sampler", t("sampler")]];
  if (takes["prior"]) params.push(["prior_steps", t("priorSteps")], ["prior_guidance_scale", t("priorGuidance")]);
  for (const name of Object.keys(lora)) params.push([`lora:${name}`, t("axisLora", { name })]);
  const put = (/** @type {Partial<import("./state.js").Axis>} */ changes, /** @type {boolean} */ anew = false) => change({ [axis]: { ...form[axis], ...changes } }, anew);
  return h("div", { class: "field", role: "group", "aria-label": label },
    h("label", { for: `axis-${axis}` }, label),
    h("select", { id: `axis-${axis}`, class: "input", onchange: typed((param) => put({ param, values: "" }, true)) }, params.map(([value, name]) => h("option", { value, selected: value === form[axis].param }, name))),
    form[axis].param && h("input", { id: `values-${axis}`, class: "input", "aria-label": `${label}: ${t("axisValues")}`, value: form[axis].values, placeholder: example(form[axis].param), oninput: typed((values) => put({ values })) }),
  );
}

/** @param {string} param */
function example(param) {
  const own = { prompt: "fox, cat, owl", seed: "1..4", steps: "5, 10, 20", guidance_scale: "1, 2, 4, 8", prior_steps: "5, 10, 25", prior_guidance_scale: "1, 2, 4" };
  if (param === "sampler") return (state.options?.samplers ?? []).slice(0, 3).join(", ");
  return own[/** @type {keyof typeof own} */ (param)] ?? "0, 0.5, 1";
}

/** @param {(text: string) => void} act */
function typed(act) {
  return (/** @type {Event} */ event) => act(/** @type {HTMLInputElement} */ (event.target).value);
}

/** Lets a person choose a file, sends it and gives what it is called there. @param {(image: import("./api.js").ImageRef) => void} act */
function pick(act) {
  pickFile((file) => void sent(file, act));
}

/** @param {(file: File) => void} act */
export function pickFile(act) {
  const input = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", hidden: true, class: "picker" });
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    input.remove();
    if (file) act(file);
  });
  input.addEventListener("cancel", () => input.remove());
  document.body.append(input);
  input.click();
}

/** @param {Blob} file @param {(image: import("./api.js").ImageRef) => void} act */
export async function sent(file, act) {
  try {
    const { sha256 } = await send(file);
    act({ sha256 });
  } catch (error) {
    const status = /** @type {import("./api.js").ApiError} */ (error).status;
    toast(status === 413 ? t("tooLarge") : status === 400 ? t("notImage") : t("sorry", { message: String(/** @type {Error} */ (error).message) }));
  }
}
