// What the page asks of the server.

/**
 * @typedef {{ mix: (string | ImageRef)[], weights: number[] } | string | ImageRef} Prompt
 * @typedef {{ sha256?: string, job?: string }} ImageRef
 * @typedef {Record<string, any>} Fields
 * @typedef {{ type?: string, message?: string, hint?: string }} JobError
 * @typedef {"queued" | "running" | "done" | "failed" | "cancelled"} State
 * @typedef {{ stage?: string, step?: number, total?: number, eta?: number }} Progress
 * @typedef {{ id: string, number: number, state: State, priority: number, favourite: boolean, request: Fields,
 *   lora: Record<string, number> | null, progress: Progress | null, before: number, image: string | null,
 *   seed: number | null, size: [number, number] | null, error: JobError | null, created: number,
 *   started: number | null, ended: number | null }} Job
 * @typedef {{ model: string, generation: string, owner: string, token: boolean, ready: boolean, defaults: Fields,
 *   samplers: string[], lora: Record<string, number>, words: string[], takes: Record<string, boolean>,
 *   largest_body: number, most_queued: number }} Options
 * @typedef {{ tool: string | null, request: Fields, lora: Record<string, number>, model: string,
 *   rest: Record<string, string> }} Made
 * @typedef {{ jobs: Job[], next: number | null }} Jobs
 */

/** An answer other than success. */
export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {string | null} [code] @param {string | null} [param] */
  constructor(status, message, code = null, param = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.param = param;
  }
}

/**
 * @param {string} method @param {string} path @param {unknown} [body] @returns {Promise<any>}
 */
export async function ask(method, path, body) {
  const raw = body instanceof Blob;
  /** @type {Response} */
  let answer;
  try {
    answer = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: body === undefined ? {} : { "content-type": raw ? body.type || "image/png" : "application/json" },
      body: body === undefined ? null : raw ? body : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "");
  }
  if (answer.status === 204) return null;
  const found = await answer.json().catch(() => ({}));
  if (answer.ok) return found;
  const error = found.error ?? {};
  throw new ApiError(answer.status, error.message ?? answer.statusText, error.code, error.param);
}

/** @param {string} text @param {boolean} favourite @param {number | null} before @returns {Promise<Jobs>} */
export function gallery(text, favourite, before) {
  const query = new URLSearchParams({ state: "done", limit: "60" });
  if (text) query.set("text", text);
  if (favourite) query.set("favourite", "true");
  if (before) query.set("before", String(before));
  return ask("GET", `/api/jobs?${query}`);
}

/** @param {Fields} request @param {Record<string, number> | null} lora @returns {Promise<Job[]>} */
export async function submit(request, lora) {
  const body = { request, previews: 12, ...(lora ? { lora } : {}) };
  return (await ask("POST", "/api/jobs", body)).jobs;
}

/** @param {Blob} image @param {boolean} [mask] @returns {Promise<{sha256: string, width: number, height: number}>} */
export function send(image, mask = false) {
  return ask("POST", `/api/inputs${mask ? "?mask=true" : ""}`, image);
}

/** Where an image of the gallery, or one that was sent, is. @param {ImageRef} ref */
export function address(ref) {
  return ref.job ? `/api/images/${ref.job}` : `/api/inputs/${ref.sha256}`;
}

/** @param {Job} job */
export function small(job) {
  return `/api/images/${job.id}/small`;
}

const KINDS = ["claimed", "progress", "preview", "queued", "done", "failed", "cancelled", "forgotten", "refresh", "warned"];

/**
 * Hears all events until it is closed; the browser comes again by itself when the connection breaks.
 * @param {(kind: string, values: any) => void} hear @param {(there: boolean) => void} connected
 */
export function listen(hear, connected) {
  let source = new EventSource("/api/events");
  const bind = () => {
    source.onopen = () => connected(true);
    source.onerror = () => {
      connected(false);
      if (source.readyState === EventSource.CLOSED) {
        setTimeout(() => {
          source = new EventSource("/api/events");
          bind();
        }, 2000);
      }
    };
    for (const kind of KINDS) {
      source.addEventListener(kind, (event) => hear(kind, JSON.parse(/** @type {MessageEvent} */ (event).data)));
    }
  };
  bind();
  return () => source.close();
}
