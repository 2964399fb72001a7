// Models of points in the plane: regions painted from the service's own answers, side by side; and one point, asked.

import { askJson, infer, modelPath, Newest, Problem } from "./api.js";
import { bars } from "./bars.js";
import { byId, make, onTheme, themed, vary } from "./dom.js";
import { milliseconds, percent, say, spoken, sureness, whole } from "./say.js";
import { announce, clearProblem, showProblem } from "./tell.js";

const GRID = 96; // points along each side
const SPREAD = 2.7; // standard deviations of the data to each side of its mean: the whole spiral
const COLOURS = 6; // in the style sheet

const newest = new Newest();
let views = []; // of each model: {model, canvas, regions, list, note}
let frame = null; // what part of the plane is seen: {x, y, half}
let point = [0.3, 0.45];
let painting = new AbortController();

export const isPlane = (card) => card.inputs[0].datatype === "FP32" && card.inputs[0].shape.join() === "-1,2";

/** Show models beside each other; none hides the panel. */
export function showPlanes(models) {
  byId("plane-panel").hidden = !models.length;
  painting.abort();
  newest.cancel();
  views = [];
  if (!models.length) return;
  painting = new AbortController();
  const { mean, std } = models[0].card.preprocessing;
  const round = (value) => Math.round(value * 10) / 10; // a frame that people and snippets can write down
  frame = { x: round(mean[0]), y: round(mean[1]), half: Math.max(0.1, round(SPREAD * Math.max(...std))) };
  views = models.map(view);
  byId("planes").replaceChildren(...views.map((each) => each.element));
  for (const [axis, id] of ["point-x", "point-y"].entries()) {
    const middle = [frame.x, frame.y][axis];
    const slider = byId(id);
    Object.assign(slider, { min: middle - frame.half, max: middle + frame.half, step: 0.01 });
  }
  move(point);
  for (const each of views) paintRegions(each, painting.signal);
}

function view(model) {
  const canvas = make("canvas", { role: "img" });
  const regions = make("canvas", { width: GRID, height: GRID });
  const list = make("ul", { class: "bars small" });
  const note = make("p", { class: "soft note" });
  const title = make("h3", {}, model.name);
  const how = make("p", { class: "soft" });
  const element = make("div", { class: "panel plane" }, title, how, canvas, list, note);
  const each = { model, canvas, regions, list, note, how, element, asked: 0, requests: 0, ms: 0, answer: null };
  const put = (event) => {
    const box = canvas.getBoundingClientRect();
    const within = (part) => Math.min(1, Math.max(0, part)) * 2 - 1;
    const across = within((event.clientX - box.left) / box.width);
    const down = within((event.clientY - box.top) / box.height);
    move([frame.x + frame.half * across, frame.y - frame.half * down]);
  };
  new ResizeObserver(render).observe(canvas);
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    put(event);
  });
  canvas.addEventListener("pointermove", (event) => canvas.hasPointerCapture(event.pointerId) && put(event));
  return each;
}

function move(to) {
  point = to.map((value) => Math.round(value * 100) / 100);
  [byId("point-x").value, byId("point-y").value] = point;
  clearProblem();
  render();
  newest.run(askPoint);
}

async function askPoint(signal) {
  try {
    const inputs = { inputs: [point] };
    const answers = await Promise.all(
      views.map((each) => askJson("point", "POST", modelPath("predict", each.model), inputs, signal)),
    );
    views.forEach((each, i) => (each.answer = answers[i].predictions[0]));
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    for (const each of views) each.answer = null;
    showProblem(error);
  }
  render();
  const answered = views.filter((each) => each.answer);
  announce(() => answered.map(sentence).join(" "));
}

const sentence = ({ model, answer }) =>
  say("spoken", { model: model.name, label: answer.label, share: sureness(answer.probability) });

/** Ask for a grid of points, as many rows of it in one request as the service takes, and paint each answer. */
async function paintRegions(each, signal) {
  const rows = Math.max(1, Math.floor(each.model.card.served.max_rows / GRID));
  const began = performance.now();
  try {
    // One after the other: together they would fill the queue, which is there for others too.
    for (let first = 0; first < GRID; first += rows) {
      const last = Math.min(GRID, first + rows);
      colour(each, first, await infer("grid", each.model, strip(first, last), source(first, last), signal));
      each.asked = last * GRID;
      each.requests++;
      each.ms = performance.now() - began;
      render();
    }
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  }
}

/** Rows `first` to `last` of the grid, top row first: float32 pairs x, y, little-endian as everywhere today. */
function strip(first, last) {
  const step = (2 * frame.half) / GRID;
  const values = new Float32Array((last - first) * GRID * 2);
  for (let row = first; row < last; row++)
    for (let column = 0; column < GRID; column++) {
      const at = 2 * ((row - first) * GRID + column);
      values[at] = frame.x - frame.half + step * (column + 0.5);
      values[at + 1] = frame.y + frame.half - step * (row + 0.5);
    }
  return new Uint8Array(values.buffer);
}

/** The same in Python. */
function source(first, last) {
  const { x, y, half } = frame;
  const across = `${x || ""}${x ? " + " : ""}${half} * ((2 * column + 1) / ${GRID} - 1)`;
  const down = `${y || ""}${y ? " + " : ""}${half} * (1 - (2 * row + 1) / ${GRID})`;
  return {
    imports: ["array"],
    before: [
      "points = [",
      `    (${across}, ${down})`,
      `    for row in range(${first}, ${last})`,
      `    for column in range(${GRID})`,
      "]",
    ],
    bytes: 'array.array("f", [value for point in points for value in point]).tobytes()',
  };
}

const classColours = (count) => Array.from({ length: count }, (_, i) => themed(`--class-${i % COLOURS}`));
const numbers = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** Mix the classes' colours as the probabilities say. */
function colour(each, first, probabilities) {
  const count = each.model.card.classes.length;
  each.answers ??= new Float32Array(GRID * GRID * count);
  each.answers.set(probabilities, first * GRID * count);
  repaint(each);
}

function repaint(each) {
  if (!each.answers) return;
  const count = each.model.card.classes.length;
  const colours = classColours(count).map(numbers);
  const ground = numbers(themed("--card"));
  const image = new ImageData(GRID, GRID);
  const strength = Number(themed("--region"));
  for (let i = 0; i < GRID * GRID; i++) {
    const row = each.answers.subarray(i * count, (i + 1) * count);
    if (!row.some((share) => share > 0)) continue; // not answered yet
    for (let channel = 0; channel < 3; channel++) {
      const mixed = colours.reduce((sum, colour, k) => sum + row[k] * colour[channel], 0);
      image.data[4 * i + channel] = ground[channel] + strength * (mixed - ground[channel]);
    }
    image.data[4 * i + 3] = 255;
  }
  each.regions.getContext("2d").putImageData(image, 0, 0);
}

const place = (canvas, [x, y]) => [
  ((x - frame.x + frame.half) / (2 * frame.half)) * canvas.width,
  ((frame.y + frame.half - y) / (2 * frame.half)) * canvas.height,
];

function dot(context, at, radius, fill, edge, width) {
  context.beginPath();
  context.arc(...at, radius, 0, 2 * Math.PI);
  context.fillStyle = fill;
  context.fill();
  context.lineWidth = width;
  context.strokeStyle = edge;
  context.stroke();
}

/** The middle lines of the arms, from the formula of dlenv_models.data.bundled.spiral, without its noise. */
function drawArms(context, canvas, classes, pixel) {
  const size = Math.max(2.5 * pixel, canvas.width / 85);
  const colours = classColours(classes.length);
  classes.forEach((name, arm) => {
    for (let step = 1; step <= 24; step++) {
      const radius = step / 24;
      const angle = (2 * Math.PI * arm) / classes.length + 4 * radius;
      const at = place(canvas, [radius * Math.sin(angle), radius * Math.cos(angle)]);
      dot(context, at, size, colours[arm], themed("--card"), size / 3);
    }
    const angle = (2 * Math.PI * arm) / classes.length + 4.02;
    const [x, y] = place(canvas, [0.98 * Math.sin(angle), 0.98 * Math.cos(angle)]);
    const letters = (canvas.width > 250 * pixel ? 14 : 11) * pixel;
    context.font = `600 ${letters}px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = x > canvas.width / 2 ? "right" : "left";
    const beside = x + (x > canvas.width / 2 ? -2 : 2) * size;
    context.lineWidth = 4 * pixel;
    context.lineJoin = "round";
    context.strokeStyle = themed("--card");
    const above = Math.max(y - size, 1.4 * letters);
    context.strokeText(name, beside, above);
    context.fillStyle = themed("--text");
    context.fillText(name, beside, above);
  });
}

function render() {
  for (const each of views) {
    const { canvas, model } = each;
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    if (canvas.width !== size) canvas.width = canvas.height = size;
    const pixel = devicePixelRatio; // of the style sheet
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    context.imageSmoothingQuality = "high";
    context.drawImage(each.regions, 0, 0, canvas.width, canvas.height);
    if (model.card.data.name === "spiral") drawArms(context, canvas, model.card.classes, pixel);
    dot(context, place(canvas, point), 8 * pixel, themed("--card"), themed("--text"), 3 * pixel);
    canvas.setAttribute("aria-label", say("planeLabel", { model: model.name }));
    each.how.textContent = `${model.card.architecture.name} · ${percent(model.card.metrics.test_accuracy)}`;
    const all = GRID * GRID;
    const done = each.asked === all;
    each.note.textContent = done
      ? say("painted", { all: whole(all), requests: whole(each.requests), time: milliseconds(each.ms) })
      : say("painting", { done: whole(each.asked), all: whole(all) });
    each.element.classList.toggle("done", done);
    bars(
      each.list,
      model.card.classes,
      each.answer && model.card.classes.map((name) => each.answer.probabilities[name]),
    );
    each.list.setAttribute("aria-label", `${say("probabilities")}: ${model.name}`);
    [...each.list.children].forEach((item, i) => vary(item, "--bar", `var(--class-${i % COLOURS})`));
  }
  const names = views.map(({ model }) => model.card.architecture.name);
  byId("plane-why").hidden = !(names.includes("linear") && names.includes("mlp"));
  for (const [axis, id] of ["point-x", "point-y"].entries()) byId(`${id}-value`).textContent = point[axis].toFixed(2);
}

for (const id of ["point-x", "point-y"])
  byId(id).addEventListener("input", () => move([Number(byId("point-x").value), Number(byId("point-y").value)]));
onTheme(() => {
  for (const each of views) repaint(each);
  render();
});
spoken(render);
