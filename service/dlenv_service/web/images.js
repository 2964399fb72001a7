// Image models: draw or choose, see what the model sees, read what it says.

import { ask, json, modelPath, Newest, Problem } from "./api.js";
import { bars } from "./bars.js";
import { byId, make } from "./dom.js";
import { EXAMPLES } from "./examples.js";
import { Pad } from "./pad.js";
import { png } from "./png.js";
import { centredModel, fromImage, fromPlanes, fromStrokes, paint } from "./prepare.js";
import { say, spoken, sureness } from "./say.js";
import { announce, clearProblem, showProblem } from "./tell.js";

const pad = new Pad(byId("pad"));
const newest = new Newest();
let model = null; // {name, version, older, card}
let chosen = null; // {bitmap, wanted: {invert, centred}}
let pixels = null; // what was sent last
let answer = null;

export const isImage = (card) => card.inputs[0].datatype === "UINT8" && card.inputs[0].shape.length === 4;

/** The pixels that were sent last, or blank ones: what a burst sends. */
export const current = () => pixels ?? fromStrokes([], shape(), false);

const givesBack = ({ card }) => card.outputs.some(({ name }) => name === "reconstruction");

function shape() {
  const [, channels, height, width] = model.card.inputs[0].shape;
  return { channels, height, width };
}

const digits = () => model.card.classes.join() === "0,1,2,3,4,5,6,7,8,9";

export function showImages(next) {
  model = next;
  byId("image-panel").hidden = !model;
  if (!model) return newest.cancel();
  [pixels, answer] = [null, null];
  render();
  askAgain();
}

function askAgain() {
  clearProblem();
  byId("pad-hint").hidden = !pad.empty;
  byId("undo").disabled = byId("clear").disabled = pad.empty;
  byId("choices").hidden = !chosen;
  if (pad.empty) {
    newest.cancel();
    [pixels, answer] = [null, null];
    render();
    return;
  }
  newest.run(send);
}

async function send(signal) {
  const asked = model;
  const now = prepared();
  try {
    const file = await png(now);
    const path = modelPath("predict", asked) + (givesBack(asked) ? "?reconstruct=true" : "");
    const call = await ask("predict", "POST", path, {
      headers: { "Content-Type": "image/png" },
      body: file,
      signal,
    });
    if (signal.aborted) return;
    [pixels, answer] = [now, json(call).predictions[0]];
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    [pixels, answer] = [now, null];
    showProblem(error);
  }
  render();
  const told = answer; // it is said in a moment, when the pad may be empty again
  if (told) announce(() => say("spoken", { model: asked.name, label: told.label, share: sureness(told.probability) }));
}

function prepared() {
  const centred = centredModel(model.card);
  if (!chosen) return fromStrokes(pad.strokes, shape(), centred);
  const made = fromImage(chosen.bitmap, shape(), centred, chosen.wanted);
  chosen.centred = made.centred;
  byId("invert").checked = made.invert;
  byId("centre").checked = made.centred;
  byId("centre-label").hidden = !centred;
  return made.pixels;
}

function render() {
  if (!model) return;
  const { classes } = model.card;
  bars(byId("bars"), classes, answer && classes.map((name) => answer.probabilities[name]));
  byId("label").textContent = answer ? answer.label : "";
  byId("label").hidden = !answer;
  byId("label").classList.toggle("long", (answer?.label.length ?? 0) > 3);
  byId("sure").textContent = answer ? say("sure", { share: sureness(answer.probability) }) : say("nothing");
  const { width, height } = shape();
  const centred = pixels && centredModel(model.card) && (chosen ? chosen.centred : true);
  byId("seen-how").textContent = say(centred ? "seenCentred" : "seenPlain", { width, height });
  byId("seen").setAttribute("aria-label", say("seenLabel", { width, height }));
  paint(byId("seen"), pixels ?? fromStrokes([], shape(), false));
  byId("made-figure").hidden = !givesBack(model);
  const back = answer?.reconstruction;
  byId("made").setAttribute("aria-label", say(back ? "madeLabel" : "madeNothing", { width, height }));
  paint(byId("made"), back ? fromPlanes(back, shape()) : fromStrokes([], shape(), false));
  byId("pad").setAttribute("aria-label", say("padLabel"));
  byId("pad-hint").replaceChildren(make("strong", {}, say(digits() ? "padDigit" : "padImage")), say("padMore"));
  byId("examples").hidden = !digits();
  for (const button of byId("examples").children)
    button.setAttribute("aria-label", say("example", { digit: button.textContent }));
}

/** Take a file: decoded and prepared here; one that the browser can't read is sent as it is, for the service's word. */
async function take(file) {
  if (!model || !file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    pad.clear();
    newest.run((signal) => refuse(file, signal));
    return;
  }
  chosen = { bitmap, wanted: {} };
  pad.show(bitmap);
}

async function refuse(file, signal) {
  const type = /^image\/(png|jpeg|webp)$/.test(file.type) ? file.type : "application/octet-stream";
  try {
    const call = await ask("predict", "POST", modelPath("predict", model), {
      headers: { "Content-Type": type },
      body: new Uint8Array(await file.arrayBuffer()),
      signal,
    });
    answer = json(call).predictions[0]; // the service could read it; what it made of it can't be shown here
    render();
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    showProblem(error);
  }
}

pad.addEventListener("change", () => {
  if (pad.strokes.length || pad.empty) chosen = null;
  if (model) askAgain();
});
byId("undo").addEventListener("click", () => pad.undo());
byId("clear").addEventListener("click", () => pad.clear());
byId("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const [id, name] of [
  ["invert", "invert"],
  ["centre", "centred"],
])
  byId(id).addEventListener("change", (event) => {
    chosen.wanted = { ...chosen.wanted, [name]: event.target.checked };
    askAgain();
  });
EXAMPLES.forEach((strokes, digit) =>
  byId("examples").append(make("button", { type: "button", click: () => pad.play(strokes) }, String(digit))),
);

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files[0]);
});
document.addEventListener("keydown", (event) => {
  const undoes = (event.ctrlKey || event.metaKey) && event.key === "z" && !event.shiftKey;
  if (!undoes || !model || event.target.matches("input, select")) return;
  event.preventDefault();
  pad.undo();
});
for (const name of ["dragover", "drop", "dragleave"])
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    byId("paper").classList.toggle("over", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
spoken(render);
