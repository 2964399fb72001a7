// The pad: draws with mouse, pen or finger, and tells of every change.

import { onTheme, still, themed } from "./dom.js";
import { LINE_WIDTH, trace } from "./prepare.js";

const REPLAY_MS = 500;

export class Pad extends EventTarget {
  strokes = []; // each a list of points (x, y) from 0 to 1
  #canvas;
  #image = null; // one that was chosen, in place of strokes
  #drawing = false;
  #replay = 0;

  constructor(canvas) {
    super();
    this.#canvas = canvas;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (this.#drawing = false));
    new ResizeObserver(() => this.#paint()).observe(canvas);
    onTheme(() => this.#paint());
  }

  get empty() {
    return !this.strokes.length && !this.#image;
  }

  undo() {
    this.#set(this.strokes.slice(0, -1));
  }

  clear() {
    this.#set([]);
  }

  /** Show an image; what was drawn goes. */
  show(image) {
    this.#set([], image);
  }

  /** Draw strokes as if by hand, or at once for those who want no motion. */
  play(strokes) {
    this.clear();
    const total = strokes.flat().length;
    const began = performance.now();
    const step = (now) => {
      let left = still() ? total : Math.ceil((total * (now - began)) / REPLAY_MS);
      const part = [];
      for (const stroke of strokes) {
        if (left > 0) part.push(stroke.slice(0, left));
        left -= stroke.length;
      }
      if (part.length) this.#set(part, null, false);
      this.#replay = left < 0 ? requestAnimationFrame(step) : 0;
    };
    this.#replay = requestAnimationFrame(step);
  }

  #set(strokes, image = null, stop = true) {
    if (stop) cancelAnimationFrame(this.#replay);
    this.strokes = strokes;
    this.#image = image;
    this.#changed();
  }

  #changed() {
    this.#paint();
    this.dispatchEvent(new Event("change"));
  }

  #down(event) {
    if (!event.isPrimary || event.button !== 0) return;
    event.preventDefault();
    cancelAnimationFrame(this.#replay);
    this.#canvas.setPointerCapture(event.pointerId);
    this.#drawing = true;
    this.#image = null;
    this.strokes.push([this.#point(event)]);
    this.#changed();
  }

  #move(event) {
    if (!this.#drawing || !event.isPrimary) return;
    const all = event.getCoalescedEvents?.() ?? [];
    this.strokes.at(-1).push(...(all.length ? all : [event]).map((each) => this.#point(each)));
    this.#changed();
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #paint() {
    const size = Math.round(this.#canvas.clientWidth * devicePixelRatio);
    if (!size) return;
    if (this.#canvas.width !== size) this.#canvas.width = this.#canvas.height = size;
    const context = this.#canvas.getContext("2d");
    context.clearRect(0, 0, size, size);
    if (this.#image) {
      const scale = size / Math.max(this.#image.width, this.#image.height);
      const [width, height] = [this.#image.width * scale, this.#image.height * scale];
      context.imageSmoothingEnabled = scale < 2; // the pixels of a tiny image are seen as pixels
      context.drawImage(this.#image, (size - width) / 2, (size - height) / 2, width, height);
    }
    context.strokeStyle = themed("--ink");
    trace(context, this.strokes, ([x, y]) => [x * size, y * size], LINE_WIDTH * size);
  }
}
