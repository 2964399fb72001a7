// Calls of the service. Each is kept, newest of its kind, so that it can be shown as a curl command and in Python.

import { say } from "./say.js";

const base = new URL(".", document.baseURI);
let key = ""; // the API key lives here and nowhere else

/** Kind of call -> the newest of it. */
export const calls = new Map();
/** "call" after each call, "locked" when the service asks for a key, "unlocked" when one was given. */
export const events = new EventTarget();

/** An answer that is an error, or none: `status` is 0 then. */
export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export const hasKey = () => key !== "";

export function useKey(value) {
  key = value;
  events.dispatchEvent(new Event("unlocked"));
}

/**
 * Ask the service; gives the answer's bytes, headers and time in ms.
 *
 * `source` says in Python how a binary body is made, for the snippets.
 */
export async function ask(kind, method, path, { headers = {}, body, source, signal } = {}) {
  const url = new URL(path, base).href;
  const call = { kind, method, url, headers, body, source, status: 0, ms: 0, type: "", length: null, answer: null };
  const sent = key ? { ...headers, Authorization: `Bearer ${key}` } : headers;
  const began = performance.now();
  let response, bytes;
  try {
    [response, bytes] = await twice(
      () => fetch(url, { method, headers: sent, body, signal, cache: "no-store" }),
      signal,
    );
  } catch (error) {
    if (signal?.aborted) throw error;
    remember(call, began);
    throw new Problem(0, say("unreachable"));
  }
  call.status = response.status;
  call.type = response.headers.get("content-type") ?? "";
  call.length = response.headers.get("inference-header-content-length");
  call.answer = bytes;
  remember(call, began);
  if (response.ok) return call;
  if (response.status === 401) events.dispatchEvent(new Event("locked"));
  throw new Problem(response.status, reason(bytes) ?? response.statusText);
}

/** An answer and its body; once more where the line broke (no call of the page changes anything). */
async function twice(get, signal) {
  const whole = async () => {
    const response = await get();
    return [response, await response.arrayBuffer()];
  };
  try {
    return await whole();
  } catch (error) {
    if (signal?.aborted) throw error;
    return whole();
  }
}

function remember(call, began) {
  call.ms = performance.now() - began;
  calls.set(call.kind, call);
  events.dispatchEvent(new Event("call"));
}

function reason(bytes) {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)).error;
  } catch {
    return undefined; // something before the service answered, a proxy perhaps
  }
}

export const text = (call) => new TextDecoder().decode(call.answer);
export const json = (call) => JSON.parse(text(call));

/** Ask with JSON, or with nothing. */
export const askJson = async (kind, method, path, document, signal) =>
  json(
    await ask(kind, method, path, {
      signal,
      ...(document && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(document) }),
    }),
  );

/** Where a model is asked: its newest version without saying so, an older one by its number. */
export const modelPath = (prefix, model) =>
  `${prefix}/${encodeURIComponent(model.name)}${model.older ? `/versions/${model.version}` : ""}`;

/**
 * Ask a model with a tensor as bytes and nothing else (Triton's binary_tensor_data with an empty header).
 *
 * Gives the probabilities, row after row.
 */
export async function infer(kind, model, body, source, signal) {
  const headers = { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": "0" };
  const path = `${modelPath("v2/models", model)}/infer`;
  const call = await ask(kind, "POST", path, { headers, body, source, signal });
  const length = Number(call.length);
  const outputs = JSON.parse(new TextDecoder().decode(call.answer.slice(0, length))).outputs;
  const [rows, classes] = outputs[0].shape;
  // The JSON's length need not be a multiple of four, so the numbers are copied out.
  return new Float32Array(call.answer.slice(length, length + rows * classes * 4));
}

/**
 * Runs the newest of a series of tasks: a task that has not begun is replaced, one under way is aborted.
 *
 * It waits a little longer than the last task took, so that on a slow line answers still come while one draws.
 */
export class Newest {
  #timer = 0;
  #task = null;
  #running = null;
  #wait = 50;

  run(task) {
    this.#task = task;
    this.#timer ||= setTimeout(() => this.#begin(), this.#wait);
  }

  cancel() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#running?.abort();
  }

  async #begin() {
    this.cancel();
    const control = (this.#running = new AbortController());
    const began = performance.now();
    try {
      await this.#task(control.signal);
    } catch (error) {
      if (!control.signal.aborted) throw error;
    }
    this.#wait = Math.min(1000, Math.max(50, 1.5 * (performance.now() - began)));
  }
}
