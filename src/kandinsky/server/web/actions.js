// What can be done with an image that is drawn.
import { ask, submit } from "./api.js";
import { button, dialog, h, toast } from "./dom.js";
import { addPart } from "./form.js";
import { t } from "./i18n.js";
import { restore } from "./request.js";
import { change, emit, groupOf, jobs, keepGroup, note, on, show, state } from "./state.js";

/** @typedef {import("./state.js").Live} Live */

let untoast = () => {};
on("choosing", () => state.choosing === null && untoast());

/** The buttons for an image. @param {Live} job */
export function actions(job) {
  return [
    button("heart", t(job.favourite ? "unfavourite" : "favourite"), () => favourite(job), { pressed: job.favourite, key: "F", id: "act-favourite" }),
    button("again", t("useSettings"), () => useSettings(job), { shown: true, quiet: false, id: "act-settings" }),
    button("edit", t("editThis"), () => edit({ job: job.id }), { shown: true, quiet: false, id: "act-edit" }),
    state.options?.takes["mix"] && button("mix", t("mixThis"), () => mix({ job: job.id }), { id: "act-mix" }),
    button("compare", t("compareThis"), () => { state.choosing = job.id; emit("choosing"); untoast = toast(t("compareChoose"), { seconds: 60 }); }, { id: "act-compare" }),
    button("download", t("download"), () => h("a", { href: `/api/images/${job.id}`, download: `kandinsky-${job.seed}.png` }).click(), { id: "act-download" }),
    button("trash", t("remove_"), () => remove(job), { key: "Del", id: "act-delete" }),
  ];
}

/** @param {Live} job */
export async function favourite(job) {
  note(await ask("PATCH", `/api/jobs/${job.id}`, { favourite: !job.favourite }));
  emit("job", job.id);
  emit("gallery", job.id);
}

/** @param {import("./api.js").ImageRef} image */
export async function edit(image) {
  change({ mode: "edit", source: image, strength: 0.6 }, true);
  emit("image");
  show({ kind: "easel" });
}

/** @param {import("./api.js").ImageRef} image */
export function mix(image) {
  addPart({ kind: "image", text: "", image, weight: 0.5 });
}

/** @param {string} sha */
async function have(sha) {
  try {
    return (await fetch(`/api/inputs/${sha}`, { method: "GET", cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** @param {Live} job */
export async function useSettings(job) {
  await repeat({ ...job.request, seed: job.seed }, job.lora ?? state.options?.lora ?? {});
}

/** Puts settings into the form, and says what could not be found. @param {import("./api.js").Fields} request @param {Record<string, number>} lora */
export async function repeat(request, lora) {
  const known = state.options?.lora ?? {};
  const named = Object.fromEntries(Object.entries(lora).map(([name, scale]) => [name.split("=")[0] ?? name, scale]));
  const whole = await restore(request, Object.fromEntries(Object.entries(named).filter(([name]) => name in known)), have);
  toast(t(whole ? "repeated" : request["image"] || request["mask"] ? "dropInput" : "dropMixInput"));
  emit("form");
}

/** @param {Live} job */
export async function remove(job) {
  const answer = await dialog((close) => h("div", { class: "body" },
    h("h2", {}, t("removeAsk")), h("p", {}, t("removeText")), h("img", { class: "shown", src: `/api/images/${job.id}/small`, alt: "" }),
    h("div", { class: "acts" },
      h("button", { type: "button", class: "btn", onclick: () => close() }, t("cancel")),
      h("button", { type: "button", class: "btn primary", autofocus: true, id: "really", onclick: () => close("yes") }, t("remove_")))), { label: t("removeAsk") });
  if (answer !== "yes") return;
  await ask("DELETE", `/api/jobs/${job.id}`);
  const group = groupOf(job.id);
  forgotten(job.id);
  const left = group?.jobs.filter((id) => jobs.has(id)) ?? [];
  show(group && left.length ? { kind: "group", group: { ...group, jobs: group.kind === "images" ? left : group.jobs } } : { kind: "welcome" });
  toast(t("removed"), { seconds: 3 });
}

/** @param {string} id */
export function forgotten(id) {
  jobs.delete(id);
  emit("gallery", id);
}

/** Asks again for what failed. @param {Live} job */
export async function retry(job) {
  const fields = Object.fromEntries(Object.entries(job.request).filter(([, value]) => value !== null));
  for (const name of ["image", "mask", "hint"]) if (fields[name]?.sha256) fields[name] = { sha256: fields[name].sha256 };
  const found = await submit(fields, job.lora);
  found.forEach(note);
  const group = { kind: /** @type {const} */ ("images"), jobs: found.map((one) => one.id), columns: [], rows: [] };
  keepGroup(group);
  show({ kind: "group", group });
}
