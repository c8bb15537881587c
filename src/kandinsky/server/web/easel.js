// The easel: a picture whose parts are painted over, to be drawn anew, and that can be extended.
import { address } from "./api.js";
import { button, fill, h, set } from "./dom.js";
import { t } from "./i18n.js";
import { Lacking } from "./request.js";
import { emit, form, on, state } from "./state.js";

/**
 * @typedef {import("./state.js").Sides} Sides
 * @typedef {{ kind: "stroke", erase: boolean, size: number, points: [number, number][] } | { kind: "clear" } |
 *   { kind: "invert" } | { kind: "sides", sides: Sides } | { kind: "mask", mask: HTMLCanvasElement }} Act  Points are in pixels of the picture.
 * @typedef {{ margins: Sides, width: number, height: number } | { image: Blob, mask: Blob }} Painted  Margins around the picture that is
 *   on the server and the size with them, or a picture of our own with its mask where something is painted.
 * @typedef {{ sides: Sides | null, mask: import("./api.js").ImageRef | null }} Before  What was painted in a request that is repeated.
 */

const LARGEST = 2048;
const NO_SIDES = { left: 0, top: 0, right: 0, bottom: 0 };

/** @type {HTMLCanvasElement | null} */
let picture = null;
let source = "";
/** Of what comes onto the easel: whether all of it could be loaded. */
let loading = Promise.resolve(true);
/** @type {{ before: Before | null } | null} What could not be loaded. */
let failed = null;
let scale = 1;
/** @type {Act[]} */
let acts = [];
/** @type {Act[]} */
let undone = [];
let sides = { ...NO_SIDES };
const mask = h("canvas");
const tint = h("canvas");
let erasing = false;
let thickness = 24;
let extending = false;
/** @type {{ zoom: number, x: number, y: number } | null} */
let view = null;
/** @type {[number, number]} */
let cursor = [0, 0];
let cursorShown = false;
/** @type {Extract<Act, { kind: "stroke" }> | null} */
let stroke = null;
const screen = h("canvas", { id: "easel", tabindex: 0, role: "application" });
const bars = h("div", { class: "bars", role: "toolbar" });
const panel = h("div", { class: "extend", hidden: true, role: "group" });
const root = h("div", { class: "easel" }, screen, panel, bars);
/** @type {Map<number, [number, number]>} */
const fingers = new Map();
let panning = false;
let spaced = false;
let frame = 0;

new ResizeObserver(() => { view = null; redraw(); }).observe(screen);
on("image", (what) => { if (form.source && (address(form.source) !== source || what?.before)) begin(what?.before); });
on("language", labels);

/** The easel as an element. */
export function mount() {
  labels();
  if (form.source && address(form.source) !== source) begin(failed?.before);
  requestAnimationFrame(() => { view = null; redraw(); });
  return root;
}

export function mounted() {
  return root.isConnected;
}

/** Loads the picture of the form, and what was painted before; what was on the easel is gone at once. @param {Before | null} [before] */
function begin(before = null) {
  if (!form.source) return;
  source = address(form.source);
  failed = null;
  empty();
  const mine = load(source, before, () => mine === loading);
  loading = mine;
  screen.setAttribute("aria-busy", "true");
  void mine.finally(() => mine === loading && screen.setAttribute("aria-busy", "false"));
}

function empty() {
  picture = null;
  acts = [];
  undone = [];
  stroke = null;
  extending = false;
  sides = { ...NO_SIDES };
  mask.getContext("2d")?.clearRect(0, 0, mask.width, mask.height);
  buttons();
  redraw();
}

/** Whether all of it is there. @param {string} from @param {Before | null} before @param {() => boolean} wanted @returns {Promise<boolean>} */
async function load(from, before, wanted) {
  const [image, painted] = await Promise.all([loadImage(from), before?.mask ? loadMask(address(before.mask)) : null]);
  if (!wanted()) return false;
  if (!image || (before?.mask && !painted)) {
    failed = { before };
    source = "";
    empty();
    tell();
    return false;
  }
  scale = Math.min(1, LARGEST / Math.max(image.naturalWidth, image.naturalHeight));
  picture = h("canvas", { width: Math.max(1, Math.round(image.naturalWidth * scale)), height: Math.max(1, Math.round(image.naturalHeight * scale)) });
  picture.getContext("2d")?.drawImage(image, 0, 0, picture.width, picture.height);
  acts = painted ? [{ kind: "mask", mask: painted }] : [];
  if (before?.sides) acts.push({ kind: "sides", sides: inScale(before.sides, scale) });
  undone = [];
  if (before?.sides) extending = true;
  thickness = Math.max(2, Math.round(Math.max(picture.width, picture.height) / 8));
  cursor = [picture.width / 2, picture.height / 2];
  view = null;
  labels();
  replay();
  return true;
}

/** @param {string} from @returns {Promise<HTMLImageElement | null>} */
async function loadImage(from) {
  const image = new Image();
  image.src = from;
  try {
    await image.decode();
  } catch {
    return null;
  }
  return image;
}

/** A mask that is white where to paint, as what the brush makes. @param {string} from @returns {Promise<HTMLCanvasElement | null>} */
async function loadMask(from) {
  const image = await loadImage(from);
  if (!image) return null;
  const made = h("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const ink = made.getContext("2d");
  if (!ink) return null;
  ink.drawImage(image, 0, 0);
  const pixels = ink.getImageData(0, 0, made.width, made.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set([0, 0, 0, pixels.data[i] ?? 0], i);
  ink.putImageData(pixels, 0, 0);
  return made;
}

/** @param {Sides} of @param {number} times @returns {Sides} */
function inScale(of, times) {
  const to = (/** @type {number} */ n) => Math.round(n * times);
  return { left: to(of.left), top: to(of.top), right: to(of.right), bottom: to(of.bottom) };
}

/** Waits for what comes onto the easel, and tries once more what failed; Lacking where it fails again. */
async function loaded() {
  if (failed) begin(failed.before);
  for (;;) {
    const mine = loading;
    const whole = await mine;
    if (mine !== loading) continue;
    if (!whole) throw new Lacking(t("notLoaded"), "source");
    return;
  }
}

/** What is painted or extended; null where nothing is. Lacking where it could not be loaded. @returns {Promise<Painted | null>} */
export async function painted() {
  await loaded();
  if (!picture || !form.source || address(form.source) !== source || !mask.width) return null;
  const extended = Object.values(sides).some(Boolean);
  if (!anything()) {
    if (!extended) return null;
    const margins = inScale(sides, 1 / scale);
    const [own, high] = [picture.width / scale, picture.height / scale].map(Math.round);
    return { margins, width: (own ?? 0) + margins.left + margins.right, height: (high ?? 0) + margins.top + margins.bottom };
  }
  const [w, tall] = [mask.width, mask.height];
  const image = h("canvas", { width: w, height: tall });
  const brush = image.getContext("2d");
  const white = h("canvas", { width: w, height: tall });
  const ink = white.getContext("2d");
  if (!brush || !ink) return null;
  stretched(brush);
  ink.fillStyle = "#ffffff";
  ink.fillRect(0, 0, w, tall);
  if (extended) ink.clearRect(sides.left, sides.top, picture.width, picture.height);
  else ink.clearRect(0, 0, w, tall);
  ink.drawImage(mask, 0, 0);
  ink.globalCompositeOperation = "source-in";
  ink.fillRect(0, 0, w, tall);
  ink.globalCompositeOperation = "destination-over";
  ink.fillStyle = "#000000";
  ink.fillRect(0, 0, w, tall);
  const [a, b] = await Promise.all([blob(image), blob(white)]);
  return { image: a, mask: b };
}

/** @param {HTMLCanvasElement} canvas @returns {Promise<Blob>} */
function blob(canvas) {
  return new Promise((resolve, reject) => canvas.toBlob((made) => (made ? resolve(made) : reject(new Error("canvas"))), "image/png"));
}

function anything() {
  const data = mask.getContext("2d", { willReadFrequently: true })?.getImageData(0, 0, mask.width, mask.height).data;
  return data ? data.some((value, i) => i % 4 === 3 && value > 127) : false;
}

/** The picture, its edges drawn out over what is added: a quiet beginning for what is drawn there. @param {CanvasRenderingContext2D} brush */
function stretched(brush) {
  if (!picture) return;
  const { left, top, right, bottom } = sides;
  const [w, tall] = [picture.width, picture.height];
  const columns = /** @type {const} */ ([[0, 1, 0, left], [0, w, left, w], [w - 1, 1, left + w, right]]);
  const rows = /** @type {const} */ ([[0, 1, 0, top], [0, tall, top, tall], [tall - 1, 1, top + tall, bottom]]);
  for (const [sx, sw, dx, dw] of columns) for (const [sy, sh, dy, dh] of rows) if (dw && dh) brush.drawImage(picture, sx, sy, sw, sh, dx, dy, dw, dh);
}

/** @param {Act} act */
function done(act) {
  acts.push(act);
  undone = [];
  replay();
}

/** Paints the mask anew from all that was done. */
function replay() {
  if (!picture) return;
  sides = { ...NO_SIDES };
  for (const act of acts) if (act.kind === "sides") sides = act.sides;
  mask.width = picture.width + sides.left + sides.right;
  mask.height = picture.height + sides.top + sides.bottom;
  const ink = mask.getContext("2d", { willReadFrequently: true });
  if (!ink) return;
  for (const act of acts) {
    if (act.kind === "clear") ink.clearRect(0, 0, mask.width, mask.height);
    else if (act.kind === "invert") {
      ink.globalCompositeOperation = "xor";
      ink.fillRect(sides.left, sides.top, picture.width, picture.height);
      ink.globalCompositeOperation = "source-over";
    } else if (act.kind === "mask") ink.drawImage(act.mask, sides.left, sides.top, picture.width, picture.height);
    else if (act.kind === "stroke") paint(ink, act, 0);
  }
  buttons();
  tell();
  redraw();
}

/** Tells the form whether a part is painted: what stays of the picture is another question then. */
function tell() {
  const painted = Object.values(sides).some(Boolean) || anything();
  if (painted === state.painted) return;
  state.painted = painted;
  emit("form");
}

/** @param {CanvasRenderingContext2D} ink @param {Extract<Act, { kind: "stroke" }>} act @param {number} from The first point that is new. */
function paint(ink, act, from) {
  ink.globalCompositeOperation = act.erase ? "destination-out" : "source-over";
  ink.lineCap = "round";
  ink.lineJoin = "round";
  ink.lineWidth = act.size;
  ink.fillStyle = "#000000";
  ink.beginPath();
  const points = act.points.slice(Math.max(0, from - 1));
  points.forEach(([x, y], i) => (i ? ink.lineTo(x + sides.left, y + sides.top) : ink.moveTo(x + sides.left, y + sides.top)));
  const [first] = points;
  if (points.length === 1 && first) ink.lineTo(first[0] + sides.left + 0.01, first[1] + sides.top);
  ink.stroke();
  ink.globalCompositeOperation = "source-over";
}

function redraw() {
  cancelAnimationFrame(frame);
  frame = requestAnimationFrame(draw);
}

/** The view that shows all of it. */
function whole() {
  const room = 24 * devicePixelRatio;
  const below = 72 * devicePixelRatio;
  const zoom = Math.min(8 * devicePixelRatio, (screen.width - 2 * room) / mask.width, (screen.height - room - below) / mask.height);
  return { zoom, x: (screen.width - mask.width * zoom) / 2, y: room + (screen.height - room - below - mask.height * zoom) / 2 };
}

function draw() {
  const ratio = devicePixelRatio;
  const [w, tall] = [Math.round(screen.clientWidth * ratio), Math.round(screen.clientHeight * ratio)];
  if (!w || !tall) return;
  if (screen.width !== w || screen.height !== tall) [screen.width, screen.height] = [w, tall];
  const brush = screen.getContext("2d");
  if (!brush) return;
  brush.setTransform(1, 0, 0, 1, 0, 0);
  brush.clearRect(0, 0, w, tall);
  if (!picture || !mask.width) return;
  view ??= whole();
  const accent = getComputedStyle(screen).color;
  brush.setTransform(view.zoom, 0, 0, view.zoom, view.x, view.y);
  brush.imageSmoothingEnabled = view.zoom / ratio < 12;
  if (Object.values(sides).some(Boolean)) {
    brush.globalAlpha = 0.5;
    stretched(brush);
    brush.globalAlpha = 1;
  }
  brush.drawImage(picture, sides.left, sides.top);
  tint.width = mask.width;
  tint.height = mask.height;
  const ink = tint.getContext("2d");
  if (ink) {
    ink.fillStyle = accent;
    if (Object.values(sides).some(Boolean)) {
      ink.fillRect(0, 0, tint.width, tint.height);
      ink.clearRect(sides.left, sides.top, picture.width, picture.height);
    }
    ink.drawImage(mask, 0, 0);
    brush.globalAlpha = 0.6;
    hatched(brush, accent, view);
    brush.globalAlpha = 1;
  }
  if (!cursorShown) return;
  for (const [colour, wide] of /** @type {const} */ ([["rgb(0 0 0 / 70%)", 3], ["#ffffff", 1.5]])) {
    brush.strokeStyle = colour;
    brush.lineWidth = (wide * ratio) / view.zoom;
    brush.beginPath();
    brush.arc(cursor[0] + sides.left, cursor[1] + sides.top, thickness / 2, 0, 7);
    brush.stroke();
  }
}

/** Lays the mask on the screen as stripes, which are seen on any picture. @param {CanvasRenderingContext2D} brush @param {string} accent @param {{ zoom: number, x: number, y: number }} at */
function hatched(brush, accent, at) {
  const side = Math.round(10 * devicePixelRatio);
  const stripe = h("canvas", { width: side, height: side });
  const line = stripe.getContext("2d");
  const over = h("canvas", { width: screen.width, height: screen.height });
  const ink = over.getContext("2d");
  if (!line || !ink) return;
  line.fillStyle = accent;
  line.fillRect(0, 0, side, side);
  line.strokeStyle = "#ffffff";
  line.lineWidth = side / 5;
  for (const shift of [-side, 0, side]) {
    line.beginPath();
    line.moveTo(shift - 1, side + 1);
    line.lineTo(shift + side + 1, -1);
    line.stroke();
  }
  ink.setTransform(at.zoom, 0, 0, at.zoom, at.x, at.y);
  ink.drawImage(tint, 0, 0);
  ink.setTransform(1, 0, 0, 1, 0, 0);
  ink.globalCompositeOperation = "source-in";
  ink.fillStyle = ink.createPattern(stripe, "repeat") ?? accent;
  ink.fillRect(0, 0, over.width, over.height);
  brush.save();
  brush.setTransform(1, 0, 0, 1, 0, 0);
  brush.drawImage(over, 0, 0);
  brush.restore();
}

/** Where an event is on the picture. @param {PointerEvent | WheelEvent} event @returns {[number, number]} */
function place(event) {
  const box = screen.getBoundingClientRect();
  const at = view ?? whole();
  const ratio = devicePixelRatio;
  return [((event.clientX - box.left) * ratio - at.x) / at.zoom - sides.left, ((event.clientY - box.top) * ratio - at.y) / at.zoom - sides.top];
}

/** @param {number} times @param {number} [x] @param {number} [y] */
function zoomBy(times, x = screen.width / 2, y = screen.height / 2) {
  const at = view ?? whole();
  const zoom = Math.min(64, Math.max(whole().zoom / 4, at.zoom * times));
  const real = zoom / at.zoom;
  view = { zoom, x: x - (x - at.x) * real, y: y - (y - at.y) * real };
  redraw();
}

function start() {
  if (!picture) return;
  stroke = { kind: "stroke", erase: erasing, size: thickness, points: [] };
}

/** @param {[number, number]} point */
function extend(point) {
  const ink = mask.getContext("2d", { willReadFrequently: true });
  if (!stroke || !ink) return;
  stroke.points.push(point);
  paint(ink, stroke, stroke.points.length - 1);
  redraw();
}

function end() {
  if (stroke?.points.length) {
    acts.push(stroke);
    undone = [];
    buttons();
    tell();
  }
  stroke = null;
}

screen.addEventListener("pointerdown", (event) => {
  screen.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  if (fingers.size === 2) {
    // The second finger zooms: what the first one has begun is no stroke.
    stroke = null;
    replay();
    return;
  }
  panning = event.button === 1 || spaced;
  cursor = place(event);
  if (panning) return;
  start();
  extend(cursor);
});

screen.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  cursorShown = event.pointerType !== "touch";
  if (before && (fingers.size === 2 || panning)) pinch(event, before);
  else if (stroke) for (const one of event.getCoalescedEvents?.() ?? [event]) extend(place(one));
  cursor = place(event);
  redraw();
});

/** @param {PointerEvent} event @param {[number, number]} before */
function pinch(event, before) {
  const ratio = devicePixelRatio;
  const box = screen.getBoundingClientRect();
  const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
  view ??= whole();
  const half = other ? 2 : 1;
  view = { ...view, x: view.x + ((event.clientX - before[0]) * ratio) / half, y: view.y + ((event.clientY - before[1]) * ratio) / half };
  if (other) {
    const far = (/** @type {number} */ x, /** @type {number} */ y) => Math.hypot(x - other[0], y - other[1]);
    zoomBy(far(event.clientX, event.clientY) / Math.max(1, far(...before)), ((event.clientX + other[0]) / 2 - box.left) * ratio, ((event.clientY + other[1]) / 2 - box.top) * ratio);
  }
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
}

for (const kind of /** @type {const} */ (["pointerup", "pointercancel"])) {
  screen.addEventListener(kind, (event) => {
    fingers.delete(event.pointerId);
    panning = false;
    end();
  });
}
screen.addEventListener("pointerleave", () => { cursorShown = document.activeElement === screen; redraw(); });
screen.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = screen.getBoundingClientRect();
  zoomBy(Math.exp(-event.deltaY / 400), (event.clientX - box.left) * devicePixelRatio, (event.clientY - box.top) * devicePixelRatio);
}, { passive: false });
screen.addEventListener("focus", () => { cursorShown = true; redraw(); });
screen.addEventListener("blur", () => { cursorShown = false; spaced = false; end(); redraw(); });

screen.addEventListener("keydown", (event) => {
  const step = Math.max(1, thickness / 4) * (event.shiftKey ? 4 : 1);
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const by = moves[/** @type {keyof typeof moves} */ (event.key)];
  if (by && picture) {
    cursor = [Math.min(picture.width, Math.max(0, cursor[0] + (by[0] ?? 0))), Math.min(picture.height, Math.max(0, cursor[1] + (by[1] ?? 0)))];
    if (stroke) extend(cursor);
  } else if (event.key === " ") {
    spaced = fingers.size > 0;
    if (!stroke && !fingers.size) {
      start();
      extend(cursor);
    }
  } else return;
  event.preventDefault();
  redraw();
});
screen.addEventListener("keyup", (event) => {
  if (event.key !== " ") return;
  spaced = false;
  end();
});

/** A key that means something while the easel is there. @param {KeyboardEvent} event @returns {boolean} */
export function key(event) {
  const command = event.ctrlKey || event.metaKey;
  const name = event.key.toLowerCase();
  if (command && name === "z") (event.shiftKey ? redo : undo)();
  else if (command && name === "y") redo();
  else if (command || event.altKey) return false;
  else if (name === "b" || name === "e") pen(name === "e");
  else if (name === "[") sized(thickness / 1.25);
  else if (name === "]") sized(thickness * 1.25);
  else if (name === "+" || name === "=") zoomBy(1.25);
  else if (name === "-") zoomBy(0.8);
  else if (name === "0") { view = null; redraw(); }
  else return false;
  return true;
}

/** @param {boolean} erase */
function pen(erase) {
  erasing = erase;
  buttons();
}

/** @param {number} to */
function sized(to) {
  const most = picture ? Math.max(picture.width, picture.height) / 2 : 256;
  thickness = Math.min(most, Math.max(1, to));
  const slider = /** @type {HTMLInputElement | null} */ (document.getElementById("brush-size"));
  if (slider) slider.value = String(Math.round((thickness / most) * 100));
  if (slider) set(slider, { "--at": `${slider.value}%` });
  redraw();
}

function undo() {
  const act = acts.pop();
  if (act) undone.push(act);
  replay();
}

function redo() {
  const act = undone.pop();
  if (act) acts.push(act);
  replay();
}

function labels() {
  screen.setAttribute("aria-label", t("easel"));
  bars.setAttribute("aria-label", t("brush"));
  panel.setAttribute("aria-label", t("extend"));
  const most = picture ? Math.max(picture.width, picture.height) / 2 : 256;
  const slider = h("input", { type: "range", id: "brush-size", min: 1, max: 100, "aria-label": t("brushSize"), oninput: () => { sized((Number(slider.value) / 100) * most); } });
  const gap = () => h("span", { class: "gap", "aria-hidden": "true" });
  fill(bars,
    button("brush", t("brush"), () => pen(false), { pressed: true, key: "B", id: "pen" }),
    button("eraser", t("eraser"), () => pen(true), { pressed: false, key: "E", id: "rubber" }),
    h("label", { title: t("brushSize") }, slider), gap(),
    button("undo", t("undo"), undo, { key: "Ctrl+Z", id: "undo" }), button("redo", t("redo"), redo, { key: "Ctrl+Y", id: "redo" }),
    button("invert", t("invert"), () => done({ kind: "invert" }), { id: "invert" }), button("trash", t("clear"), () => done({ kind: "clear" }), { id: "clear" }), gap(),
    button("minus", t("zoomOut"), () => zoomBy(0.8), { key: "-" }), button("fit", t("fit"), () => { view = null; redraw(); }, { key: "0" }), button("plus", t("zoomIn"), () => zoomBy(1.25), { key: "+" }), gap(),
    button("extend", t("extend"), () => { extending = !extending; buttons(); }, { pressed: false, id: "extend" }),
    h("button", { type: "button", class: "btn primary", onclick: () => /** @type {HTMLFormElement | null} */ (document.getElementById("form"))?.requestSubmit() }, t("draw")));
  const names = /** @type {const} */ ([["left", "leftSide"], ["top", "topSide"], ["right", "rightSide"], ["bottom", "bottomSide"]]);
  fill(panel, h("h2", {}, t("extend")), h("p", { class: "note" }, t("extendHint")),
    names.map(([side, name]) => {
      const input = h("input", { class: "input", type: "number", min: 0, max: LARGEST, step: 8, id: `extend-${side}`, value: sides[side], onchange: () => { view = null; done({ kind: "sides", sides: { ...sides, [side]: Math.min(LARGEST, Math.max(0, Math.round(Number(input.value) / 8) * 8 || 0)) } }); } });
      return h("div", { class: "line" }, h("label", { for: `extend-${side}` }, t(name)), input);
    }));
  sized(thickness);
  buttons();
}

function buttons() {
  const press = (/** @type {string} */ id, /** @type {boolean} */ on_) => bars.querySelector(`#${id}`)?.setAttribute("aria-pressed", String(on_));
  const able = (/** @type {string} */ id, /** @type {boolean} */ can) => { const one = bars.querySelector(`#${id}`); if (one instanceof HTMLButtonElement) one.disabled = !can; };
  press("pen", !erasing);
  press("rubber", erasing);
  press("extend", extending);
  able("undo", acts.length > 0);
  able("redo", undone.length > 0);
  panel.hidden = !extending;
  for (const side of /** @type {const} */ (["left", "top", "right", "bottom"])) {
    const input = panel.querySelector(`#extend-${side}`);
    if (input instanceof HTMLInputElement && document.activeElement !== input) input.value = String(sides[side]);
  }
}
