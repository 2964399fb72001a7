// A burst of requests, and how batching answered it: exact batch sizes from the model's statistics, before and after.

import { askJson, infer, modelPath, Problem } from "./api.js";
import { byId, make, vary } from "./dom.js";
import { current, isImage } from "./images.js";
import { hurry } from "./live.js";
import { base64, deflate, join } from "./png.js";
import { planar } from "./prepare.js";
import { milliseconds, say, short, spoken, whole } from "./say.js";

const REQUESTS = 300;
const AT_ONCE = 6; // browsers open no more connections to a server, and what waits for one is not yet sent
const LISTED = 10; // batch sizes

let model = null;
let running = false;
let result = null;

export function showBurst(next) {
  model = next;
  result = null;
  render();
}

/** One row as bytes, and how Python makes the same. */
async function row() {
  if (isImage(model.card)) {
    const bytes = planar(current());
    const packed = base64(await deflate(bytes));
    return { bytes, imports: ["base64", "zlib"], python: `zlib.decompress(base64.b64decode("${packed}"))` };
  }
  const numbers = model.card.inputs[0].shape[1];
  return { bytes: new Uint8Array(4 * numbers), imports: [], python: `bytes(${4 * numbers})` };
}

async function run() {
  const rows = Number(byId("burst-rows").value);
  const one = await row();
  const body = join(Array.from({ length: rows }, () => one.bytes));
  const source = { imports: one.imports, before: [], bytes: rows > 1 ? `${one.python} * ${rows}` : one.python };
  running = true;
  result = null;
  render();
  hurry(true);
  try {
    result = await measure(model, body, source, rows);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    result = { error };
  }
  running = false;
  hurry(false);
  render();
}

async function measure(asked, body, source, rows) {
  const before = await counts(asked);
  const times = [];
  const refused = new Map(); // status -> {count, reason}
  let left = REQUESTS;
  const worker = async () => {
    while (left > 0) {
      left--;
      const began = performance.now();
      try {
        await infer("burst", asked, body, source);
        times.push(performance.now() - began);
      } catch (error) {
        if (!(error instanceof Problem)) throw error;
        const same = refused.get(error.status) ?? { count: 0, reason: error.message };
        refused.set(error.status, { ...same, count: same.count + 1 });
      }
      byId("burst-progress").value = 1 - left / REQUESTS;
    }
  };
  const began = performance.now();
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  const ms = performance.now() - began;
  times.sort((a, b) => a - b);
  return { ms, times, refused, rows, batches: batchesBetween(before, await counts(asked)) };
}

/** The model's statistics, or null where this address does not show them. */
async function counts(asked) {
  try {
    return (await askJson("stats", "GET", `${modelPath("v2/models", asked)}/stats`)).model_stats.at(-1);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    return null;
  }
}

function batchesBetween(before, after) {
  if (!before || !after) return [];
  const then = new Map(before.batch_stats.map((each) => [each.batch_size, each]));
  const change = (now, old, part, what) => now[part][what] - (old?.[part][what] ?? 0);
  return after.batch_stats
    .map((now) => {
      const old = then.get(now.batch_size);
      const parts = ["compute_input", "compute_infer", "compute_output"];
      return {
        size: now.batch_size,
        count: change(now, old, "compute_infer", "count"),
        ns: parts.reduce((sum, part) => sum + change(now, old, part, "ns"), 0),
      };
    })
    .filter((each) => each.count > 0);
}

function render() {
  byId("burst").disabled = running || !model;
  byId("burst").textContent = say("burstButton", { count: whole(REQUESTS) });
  byId("burst-lead").textContent = say("burstLead", {
    count: whole(REQUESTS),
    model: model?.name ?? "–",
    most: whole(AT_ONCE),
  });
  byId("burst-progress").hidden = !running;
  byId("burst-call").hidden = !result;
  byId("burst-report").replaceChildren(
    ...(result ? report() : [make("p", { class: "soft empty" }, say("burstEmpty"))]),
  );
}

function report() {
  if (result.error) return [make("p", { class: "problem" }, result.error.message)];
  const { ms, times, refused, rows, batches } = result;
  const at = (share) => milliseconds(times[Math.min(times.length - 1, Math.floor(share * times.length))]);
  const parts = [];
  if (times.length) {
    const rate = (times.length * 1000) / ms;
    const done = { requests: whole(times.length), time: milliseconds(ms), rate: short(rate), rows: short(rate * rows) };
    parts.push(make("p", {}, say("burstDone", { ...done, p50: at(0.5), p99: at(0.99) })));
  }
  for (const [status, { count, reason }] of refused)
    parts.push(make("p", { class: "problem" }, say("burstOthers", { count: whole(count), status, reason })));
  const all = batches.reduce((sum, each) => sum + each.count, 0);
  if (!all) return parts;
  const mean = batches.reduce((sum, each) => sum + each.count * each.size, 0) / all;
  parts.push(
    make("p", {}, say("burstBatches", { batches: whole(all), mean: short(mean), most: whole(batches.at(-1).size) })),
  );
  parts.push(table(batches));
  return parts;
}

function table(batches) {
  const most = Math.max(...batches.map((each) => each.count));
  const frequent = [...batches].sort((a, b) => b.count - a.count).slice(0, LISTED);
  const head = ["size", "count", "perBatch", "perRow"].map((name) => make("th", { scope: "col" }, say(name)));
  const rows = frequent
    .sort((a, b) => a.size - b.size)
    .map(({ size, count, ns }) => {
      const each = ns / count / 1e6;
      const cells = [whole(count), milliseconds(each), milliseconds(each / size)].map((text) => make("td", {}, text));
      vary(cells[0], "--share", count / most).className = "filled";
      return make("tr", {}, make("th", { scope: "row" }, whole(size)), cells);
    });
  const sizes = make("table", { class: "sizes" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, rows));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("batches") }, sizes);
}

byId("burst").addEventListener("click", run);
spoken(render);
