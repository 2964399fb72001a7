// What /metrics says, as numbers. The text format: https://prometheus.io/docs/instrumenting/exposition_formats/

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Name -> list of {labels, value}. */
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (name === undefined) continue; // a comment
    if (!found.has(name)) found.set(name, []);
    found.get(name).push({
      labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, text]) => [key, text])),
      value: Number(value.replace("+Inf", "Infinity")),
    });
  }
  return found;
}

export const sum = (metrics, name) => (metrics.get(name) ?? []).reduce((total, { value }) => total + value, 0);

/** A histogram over all models: [[upper bound, count in this bucket]], counts not cumulative. */
export function histogram(metrics, name) {
  const counts = new Map();
  for (const { labels, value } of metrics.get(`${name}_bucket`) ?? []) {
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    counts.set(bound, (counts.get(bound) ?? 0) + value);
  }
  const bounds = [...counts.keys()].sort((a, b) => a - b);
  return bounds.map((bound, i) => [bound, counts.get(bound) - (i ? counts.get(bounds[i - 1]) : 0)]);
}

/** What came into a histogram between two readings. */
export const since = (now, then) => now.map(([bound, count], i) => [bound, count - (then[i]?.[1] ?? 0)]);

/** The value below which this share lies, as finely as the buckets tell; null where there is nothing. */
export function quantile(buckets, share) {
  const total = buckets.reduce((all, [, count]) => all + count, 0);
  if (!total) return null;
  let left = share * total;
  let below = 0;
  for (const [bound, count] of buckets) {
    if (left <= count && count) return bound === Infinity ? below : below + ((bound - below) * left) / count;
    left -= count;
    below = bound;
  }
  return below;
}
