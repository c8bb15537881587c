// Pictures that come from outside: dropped anywhere, pasted, or opened.
import { edit, mix, repeat } from "./actions.js";
import { ApiError, ask } from "./api.js";
import { dialog, h, toast } from "./dom.js";
import { sent } from "./form.js";
import { t } from "./i18n.js";
import { line, on, state } from "./state.js";

/** @typedef {import("./api.js").Made} Made */

export function watchDrops() {
  const veil = h("div", { class: "drop", hidden: true }, t("dropHere"));
  document.body.append(veil);
  on("language", () => { veil.textContent = t("dropHere"); });
  const files = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files") ?? false;
  let depth = 0;
  document.addEventListener("dragenter", (event) => { if (files(event)) { depth += 1; veil.hidden = false; } });
  document.addEventListener("dragleave", (event) => { if (files(event) && (depth -= 1) <= 0) veil.hidden = true; });
  document.addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    const file = event.dataTransfer?.files[0];
    if (file) void openFile(file);
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (!file) return;
    event.preventDefault();
    void openFile(file);
  });
}

/** Asks what is to become of a picture. @param {File} file */
export async function openFile(file) {
  /** @type {Made} */
  let made;
  try {
    made = await ask("POST", "/api/metadata", file);
  } catch (error) {
    const status = error instanceof ApiError ? error.status : 0;
    toast(status === 413 ? t("tooLarge") : status === 0 ? t("offline") : t("notImage"));
    return;
  }
  const shown = URL.createObjectURL(file);
  const answer = await dialog((close) => choices(made, shown, close), { label: t("dropTitle") });
  URL.revokeObjectURL(shown);
  if (answer === "repeat") await repeat(made.request, made.lora);
  else if (answer === "edit") await sent(file, (image) => void edit(image));
  else if (answer === "mix") await sent(file, mix);
}

/** @param {Made} made @param {string} shown @param {(value?: string) => void} close */
function choices(made, shown, close) {
  const act = (/** @type {string} */ value, /** @type {string} */ name, /** @type {boolean} */ first) =>
    h("button", { type: "button", class: first ? "btn primary" : "btn", id: `drop-${value}`, autofocus: first, onclick: () => close(value) }, name);
  const own = state.options?.model ?? "";
  return h("div", { class: "body" },
    h("h2", {}, t("dropTitle")),
    h("img", { class: "shown", src: shown, alt: "" }),
    made.tool
      ? h("div", {}, h("p", { class: "note" }, made.tool === "kandinsky" ? t("dropMade") : t("dropForeign", { tool: made.tool })), h("p", {}, line(made.request["prompt"]) || "–"))
      : h("p", { class: "note" }, t("dropNothing")),
    made.tool && made.model && made.model !== own && h("p", { class: "note" }, t("dropOther", { model: made.model, own })),
    h("div", { class: "acts" }, state.options?.takes["mix"] && act("mix", t("mixThis"), false), act("edit", t("editThis"), !made.tool), made.tool && act("repeat", t("dropRepeat"), true)));
}
