// The service, live: one reading of /metrics a second.

import { ask, events, Problem, text } from "./api.js";
import { byId, drawn, make, vary } from "./dom.js";
import { histogram, parse, quantile, since, sum } from "./prometheus.js";
import { bytes, milliseconds, percent, say, short, spoken, whole } from "./say.js";

const EVERY_MS = 1000;
const HURRIED_MS = 200; // while a burst runs
const REFUSED_MS = 10_000;
const KEPT_MS = 60_000;
const TILES = ["rate", "p50", "p99", "queue"];

let readings = []; // of the last minute, oldest first
let series = { rate: [], p50: [], p99: [], queue: [] }; // points of the tiles' lines: {at, value}
let timer = 0;
let hurried = false;
let state = "notReady";
let reason = ""; // why there are no figures, in the service's words
let models = 0;

/** Read more often, for a while. */
export function hurry(on) {
  hurried = on;
  if (on) read();
}

async function read() {
  clearTimeout(timer);
  if (document.hidden) return;
  let next = hurried ? HURRIED_MS : EVERY_MS;
  try {
    take(parse(text(await ask("metrics", "GET", "metrics"))));
    reason = "";
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    reason = error.message;
    if (error.status === 401)
      next = null; // until a key is given
    else if (error.status) next = REFUSED_MS; // the figures may be for another address only
    await health(error.status);
  }
  render();
  if (next) timer = setTimeout(read, next);
}

/** What the service is like where it does not show its figures. */
async function health(status) {
  state = { 0: "gone", 401: "locked" }[status];
  if (state) return;
  try {
    await ask("health", "GET", "v2/health/ready");
    state = "answers";
  } catch {
    state = "notReady";
  }
}

function take(metrics) {
  const at = performance.now();
  // Readings of different replicas, and of one before and after a restart, are not compared.
  const replica = metrics.get("dlenv_ready")?.[0].labels.replica ?? "";
  const now = {
    at,
    replica,
    metrics,
    requests: sum(metrics, "dlenv_requests_total"),
    latency: histogram(metrics, "dlenv_request_duration_seconds"),
    batches: histogram(metrics, "dlenv_batch_rows"),
    queue: sum(metrics, "dlenv_queue_rows"),
  };
  const before = readings.findLast((each) => each.replica === replica);
  if (before && now.requests < before.requests) readings = [];
  readings = [...readings.filter((each) => at - each.at < KEPT_MS), now];
  state = sum(metrics, "dlenv_ready") ? "ready" : "notReady";
  models = (metrics.get("dlenv_model_info") ?? []).length;
  if (!before || now.requests < before.requests) return;
  const latency = since(now.latency, before.latency);
  const ms = (share) => quantile(latency, share) * 1000 || null;
  add("rate", at, ((now.requests - before.requests) * 1000) / (at - before.at));
  add("p50", at, ms(0.5));
  add("p99", at, ms(0.99));
  add("queue", at, now.queue);
}

function add(name, at, value) {
  series[name] = [...series[name].filter((each) => at - each.at < KEPT_MS), { at, value }];
}

function render() {
  byId("health").className = `health ${["ready", "answers"].includes(state) ? "ready" : ""}`;
  byId("no-figures").hidden = !reason;
  byId("no-figures").textContent = reason;
  const words = say(state, { count: whole(models) });
  if (byId("health").textContent !== words) byId("health").textContent = words;
  byId("tiles").replaceChildren(...TILES.map(tile));
  const newest = readings.at(-1);
  if (newest) {
    byId("machine").replaceChildren(
      ...machine(newest.metrics).flatMap(([name, value]) => [make("dt", {}, say(name)), make("dd", {}, value)]),
    );
    const oldest = readings.find((each) => each.replica === newest.replica);
    renderBatches(since(newest.batches, oldest.batches));
  }
}

const written = (name, value) =>
  value === null || value === undefined ? "–" : name === "p50" || name === "p99" ? milliseconds(value) : short(value);

function tile(name) {
  const points = series[name];
  const known = points.map((each) => each.value).filter((value) => value !== null);
  const most = Math.max(...known, 0);
  // A latency is that of the newest second in which there were requests.
  const value = known.at(-1);
  const about = known.length && most ? say("last", { value: written(name, most) }) : say("quiet");
  return make(
    "div",
    { class: "panel tile" },
    make("h3", {}, say(name)),
    make("p", { class: "value" }, written(name, value)),
    line(points, most),
    make(
      "p",
      { class: "soft" },
      name === "queue" && known.length ? say("last", { value: written(name, most) }) : about,
    ),
  );
}

function line(points, most) {
  const now = points.at(-1)?.at ?? 0;
  const place = ({ at, value }) =>
    `${(100 - (100 * (now - at)) / KEPT_MS).toFixed(2)},${(29 - (27 * (value ?? 0)) / (most || 1)).toFixed(2)}`;
  // A second without requests has no latency: the line breaks there.
  const path = points.map((each, i) => `${i && points[i - 1].value !== null ? "L" : "M"}${place(each)}`);
  const whole = points.length > 1 && points.every((each) => each.value !== null);
  return drawn(
    "svg",
    { viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true" },
    drawn("path", { class: "ground", d: "M0,29H100" }),
    drawn("path", { class: "area", d: whole ? `${path.join("")}L100,29L${place({ ...points[0], value: 0 })}Z` : "" }),
    drawn("path", { class: "line", d: path.filter((_, i) => points[i].value !== null).join("") }),
  );
}

function machine(metrics) {
  const device = metrics.get("dlenv_model_info")?.[0]?.labels.device ?? "–";
  const gpus = metrics.get("dlenv_gpu_memory_total_bytes") ?? [];
  const used = metrics.get("dlenv_gpu_memory_used_bytes") ?? [];
  const busy = metrics.get("dlenv_gpu_utilization_ratio") ?? [];
  const rows = [["device", [device, ...gpus.map((gpu) => gpu.labels.name)].join(", ")]];
  gpus.forEach((gpu, i) => {
    rows.push(["gpuMemory", `${bytes(used[i].value)} / ${bytes(gpu.value)}`]);
    if (busy[i]) rows.push(["gpuBusy", percent(busy[i].value, 0)]);
  });
  const resident = sum(metrics, "process_resident_memory_bytes"); // Linux only
  if (resident) rows.push(["memory", bytes(resident)]);
  rows.push(["weights", bytes(sum(metrics, "dlenv_model_memory_bytes"))]);
  rows.push(["uptime", duration(sum(metrics, "dlenv_uptime_seconds"))]);
  const { replica } = readings.at(-1);
  if (replica) rows.push(["replica", replica]);
  return rows;
}

function duration(seconds) {
  if (seconds < 120) return say("seconds", { value: whole(seconds) });
  return seconds < 7200
    ? say("minutes", { value: whole(seconds / 60) })
    : say("hours", { value: short(seconds / 3600) });
}

function renderBatches(buckets) {
  const total = buckets.reduce((sum, [, count]) => sum + count, 0);
  const chart = byId("histogram");
  if (!total) {
    chart.replaceChildren(make("p", { class: "soft empty" }, say("noBatches")));
    return;
  }
  const last = Math.max(
    6,
    buckets.findLastIndex(([, count]) => count),
  );
  const most = Math.max(...buckets.map(([, count]) => count));
  const bars = buckets.slice(0, last + 1).map(([bound, count], i) => {
    const from = i ? buckets[i - 1][0] + 1 : 1;
    const size = bound === Infinity ? `>${buckets[i - 1][0]}` : from >= bound ? `${bound}` : `${from}–${bound}`;
    const name = make("span", { class: "name", "aria-hidden": "true" }, size);
    const label = make("span", { class: "hidden" }, say("batchBar", { count: whole(count), size }));
    const bar = make(
      "span",
      { class: "column", "aria-hidden": "true" },
      make("span", { class: "count" }, count ? whole(count) : ""),
    );
    return make("li", {}, vary(bar, "--share", count / most), name, label);
  });
  chart.replaceChildren(make("ul", {}, bars));
}

document.addEventListener("visibilitychange", read);
events.addEventListener("unlocked", read);

export function watch() {
  spoken(render);
  read();
}
