// From what somebody drew or chose to exactly the pixels that a model takes.

// MNIST's own preprocessing (LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/): the digit is scaled to fit
// 20 x 20 pixels with its aspect kept, and moved so that its centre of mass is the middle of 28 x 28. In the files that
// is the middle of pixel 14 (counted from 0); measured: 14.0 on average over mnist5k.
const BOX = 20 / 28;
const MIDDLE = 14.5 / 28;
// Pixels of 28: with lines of this width, retraced MNIST digits have as much ink as the originals (103 full pixels).
const LINE = 2.4 / 28;
export const LINE_WIDTH = LINE; // as a part of the pad's width
const FINER = 8; // drawn this much finer, then averaged

/** Whether a model has learned from images that were made as MNIST's. */
export const centredModel = (card) => /^mnist(5k)?$/.test(card.data.name) && card.classes.length === 10;

/** Strokes (points from 0 to 1) as pixels {width, height, channels, data}, white on black. */
export function fromStrokes(strokes, { channels, height, width }, centred) {
  const canvas = blank(width * FINER, height * FINER);
  const place = centred ? centredPlace(strokes, canvas) : { scale: 1, x: 0, y: 0 };
  draw(canvas, strokes, place);
  return { width, height, channels, data: repeat(shrink(canvas, FINER), channels) };
}

function centredPlace(strokes, canvas) {
  const points = strokes.flat();
  const [left, right] = extent(points.map((point) => point[0]));
  const [top, bottom] = extent(points.map((point) => point[1]));
  // A dot stays a dot: it is not blown up to the size of a digit.
  const scale = Math.min(5, (BOX - LINE) / Math.max(right - left, bottom - top, 1e-6));
  const first = { scale, x: 0.5 - (scale * (left + right)) / 2, y: 0.5 - (scale * (top + bottom)) / 2 };
  draw(canvas, strokes, first);
  const mass = centreOfMass(grey(canvas), canvas.width, canvas.height);
  wipe(canvas);
  return { scale, x: first.x + MIDDLE - mass.x, y: first.y + MIDDLE - mass.y };
}

// Not Math.min(...values): a long drawing has more points than a call may have arguments.
const extent = (values) =>
  values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);

/** Draw strokes on a canvas; also how the pad draws what one sees. */
export function trace(context, strokes, at, lineWidth) {
  context.lineWidth = lineWidth;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    const points = stroke.map(at);
    context.beginPath();
    context.moveTo(...points[0]);
    if (points.length === 1) context.lineTo(...points[0]);
    for (let i = 1; i < points.length - 1; i++) {
      const [x, y] = points[i];
      context.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
    }
    if (points.length > 1) context.lineTo(...points.at(-1));
    context.stroke();
  }
}

function draw(canvas, strokes, place) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.strokeStyle = "#fff";
  const at = ([x, y]) => [(x * place.scale + place.x) * canvas.width, (y * place.scale + place.y) * canvas.height];
  trace(context, strokes, at, LINE * Math.min(canvas.width, canvas.height));
}

/** A decoded image as pixels. `invert` and `centred` undefined: as the image itself suggests; the choice comes back. */
export function fromImage(bitmap, shape, centredPossible, wanted = {}) {
  const { channels, height, width } = shape;
  const exact = bitmap.width === width && bitmap.height === height;
  const centred = centredPossible && (wanted.centred ?? !exact);
  // As much finer as needed and not more: photos are shrunk by the browser first.
  const most = exact && !centred ? Math.max(width, height) : FINER * Math.max(width, height);
  const part = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
  const canvas = blank(Math.max(1, Math.round(bitmap.width * part)), Math.max(1, Math.round(bitmap.height * part)));
  flatten(canvas, bitmap);
  const invert = wanted.invert ?? (channels === 1 && border(canvas) > 127);
  if (invert) negate(canvas);
  if (centred) lift(canvas);
  const fitted = exact && !centred ? canvas : fit(canvas, width * FINER, height * FINER, centred);
  const step = fitted.width / width;
  const data = channels === 1 ? shrink(fitted, step) : shrinkColour(fitted, step);
  return { pixels: { width, height, channels, data }, invert, centred };
}

/** Transparent parts become black as in the service, or white where what is not transparent is dark. */
function flatten(canvas, bitmap) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  wipe(canvas, true);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const seen = context.getImageData(0, 0, canvas.width, canvas.height).data;
  let light = 0;
  let weight = 0;
  let clear = false;
  for (let i = 0; i < seen.length; i += 4) {
    clear ||= seen[i + 3] < 255;
    weight += seen[i + 3];
    light += seen[i + 3] * luma(seen, i);
  }
  if (!clear) return;
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = light / Math.max(1, weight) < 128 ? "#fff" : "#000";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
}

/** The median of the edge: what the paper is like. */
function border(canvas) {
  const { width, height } = canvas;
  const values = grey(canvas);
  const edge = [];
  for (let x = 0; x < width; x++) edge.push(values[x], values[(height - 1) * width + x]);
  for (let y = 0; y < height; y++) edge.push(values[y * width], values[y * width + width - 1]);
  return edge.sort((a, b) => a - b)[edge.length >> 1];
}

const negate = (canvas) => change(canvas, (value) => 255 - value);

/** Paper to black and ink to white, as a photograph has neither. */
function lift(canvas) {
  const paper = border(canvas);
  const ink = grey(canvas).reduce((most, value) => Math.max(most, value), 0);
  const low = paper + 0.25 * (ink - paper); // shadows on the paper, and its grain
  const high = paper + 0.75 * (ink - paper);
  const values = grey(canvas);
  change(canvas, (_, pixel) => (high > low ? (255 * (values[pixel] - low)) / (high - low) : values[pixel]));
}

/** Scaled to fit a canvas of this size with the aspect kept; only the ink, and by its mass, where `centred`. */
function fit(source, width, height, centred) {
  const target = blank(width, height);
  const context = target.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  const box = (centred && inked(source)) || { x: 0, y: 0, width: source.width, height: source.height };
  const room = centred ? BOX : 1;
  const scale = Math.min((room * width) / box.width, (room * height) / box.height);
  const w = box.width * scale;
  const h = box.height * scale;
  const put = (x, y) => context.drawImage(source, box.x, box.y, box.width, box.height, x, y, w, h);
  put((width - w) / 2, (height - h) / 2);
  if (!centred) return target;
  const mass = centreOfMass(grey(target), width, height);
  wipe(target);
  put((width - w) / 2 + (MIDDLE - mass.x) * width, (height - h) / 2 + (MIDDLE - mass.y) * height);
  return target;
}

function inked(canvas) {
  const values = grey(canvas);
  let [left, top, right, bottom] = [canvas.width, canvas.height, -1, -1];
  values.forEach((value, i) => {
    if (value < 128) return;
    const x = i % canvas.width;
    const y = (i - x) / canvas.width;
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  });
  return right < 0 ? null : { x: left, y: top, width: right - left + 1, height: bottom - top + 1 };
}

function centreOfMass(values, width, height) {
  let [sum, x, y] = [0, 0, 0];
  values.forEach((value, i) => {
    sum += value;
    x += value * ((i % width) + 0.5);
    y += value * (Math.floor(i / width) + 0.5);
  });
  return sum ? { x: x / sum / width, y: y / sum / height } : { x: MIDDLE, y: MIDDLE };
}

function blank(width, height) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  wipe(canvas);
  return canvas;
}

function wipe(canvas, clear = false) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#000";
  if (clear) context.clearRect(0, 0, canvas.width, canvas.height);
  else context.fillRect(0, 0, canvas.width, canvas.height);
}

function change(canvas, value) {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const image = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < image.data.length; i++) if (i % 4 < 3) image.data[i] = value(image.data[i], i >> 2);
  context.putImageData(image, 0, 0);
}

const read = (canvas) =>
  canvas.getContext("2d", { willReadFrequently: true }).getImageData(0, 0, canvas.width, canvas.height).data;

// ITU-R 601, rounded as Pillow does it: the service would make the same grey of a file.
const luma = (data, i) => (data[i] * 19595 + data[i + 1] * 38470 + data[i + 2] * 7471 + 0x8000) >> 16;

function grey(canvas) {
  const data = read(canvas);
  return Float32Array.from({ length: data.length / 4 }, (_, i) => luma(data, 4 * i));
}

/** The mean of each square of `step` x `step` pixels. */
function shrink(canvas, step) {
  return average(grey(canvas), canvas.width, canvas.height, step);
}

function shrinkColour(canvas, step) {
  const data = read(canvas);
  const planes = [0, 1, 2].map((channel) =>
    average(
      Float32Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + channel]),
      canvas.width,
      canvas.height,
      step,
    ),
  );
  return Uint8Array.from({ length: 3 * planes[0].length }, (_, i) => planes[i % 3][Math.floor(i / 3)]);
}

function average(values, width, height, step) {
  const across = width / step;
  const sums = new Float32Array(across * (height / step));
  values.forEach((value, i) => {
    sums[Math.floor(Math.floor(i / width) / step) * across + Math.floor((i % width) / step)] += value;
  });
  return Uint8Array.from(sums, (sum) => Math.round(sum / step ** 2));
}

const repeat = (data, channels) =>
  channels === 1 ? data : Uint8Array.from({ length: data.length * channels }, (_, i) => data[Math.floor(i / channels)]);

/** The pixels channel after channel, as the tensor has them. */
export function planar({ channels, data }) {
  const size = data.length / channels;
  return Uint8Array.from({ length: data.length }, (_, i) => data[(i % size) * channels + Math.floor(i / size)]);
}

/** The other way: numbers [channel][row][column], as the service gives them back, as pixels. */
export function fromPlanes(planes, { channels, height, width }) {
  const flat = planes.map((plane) => plane.flat());
  const data = Uint8ClampedArray.from(
    { length: height * width * channels },
    (_, i) => flat[i % channels][Math.floor(i / channels)],
  );
  return { width, height, channels, data };
}

/** Show pixels on a canvas of their size. */
export function paint(canvas, { width, height, channels, data }) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let channel = 0; channel < 3; channel++)
      image.data[4 * i + channel] = data[i * channels + (channel % channels)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}
