// The page begins here: words, models, and who shows what of the model that is chosen.

import { askJson, events, infer, Problem, useKey } from "./api.js";
import { showBurst } from "./burst.js";
import { showCard } from "./card.js";
import { listen } from "./codes.js";
import { byId, make } from "./dom.js";
import { isImage, showImages } from "./images.js";
import { watch } from "./live.js";
import { isPlane, showPlanes } from "./plane.js";
import { percent, preferred, say, speak, spoken, whole } from "./say.js";
import { clearProblem, showProblem } from "./tell.js";

let models = []; // {name, versions, newest}, in the order of their names
let chosen = null; // {name, version, older, card}
let server = null;
let choices = 0; // made so far: a slow answer about an earlier one comes too late

async function begin() {
  try {
    server = await askJson("server", "GET", "v2");
    about();
    await list();
    const wanted = new URLSearchParams(location.search).get("model");
    const first = models.find(({ name }) => name === wanted) ?? models[0];
    if (first) await choose(first.name);
    else nothing();
  } catch (error) {
    fail(error);
  }
}

function fail(error) {
  if (!(error instanceof Problem)) throw error;
  showProblem(error);
}

/** Which models are loaded. */
async function list() {
  const answer = await askJson("models", "GET", "models");
  models = answer.models.map((model) => ({ ...model, newest: Math.max(...model.versions) }));
  renderChoice();
}

function nothing() {
  byId("other-panel").hidden = false;
  byId("other-panel").textContent = say("noModel");
}

async function card(name, version, kind = "card") {
  const { newest } = models.find((model) => model.name === name);
  const older = version !== newest;
  const path = `models/${encodeURIComponent(name)}${older ? `/versions/${version}` : ""}/card`;
  return { name, version, older, card: await askJson(kind, "GET", path) };
}

async function choose(name, version = models.find((model) => model.name === name).newest) {
  clearProblem();
  const number = ++choices;
  const model = await card(name, version);
  const beside = isPlane(model.card) ? await alike(model) : [];
  if (number !== choices) return;
  chosen = model;
  const address = new URL(location.href);
  address.searchParams.set("model", name);
  history.replaceState(null, "", address);
  renderChoice();
  showImages(isImage(model.card) ? model : null);
  showPlanes(beside);
  byId("other-panel").hidden = isImage(model.card) || isPlane(model.card);
  if (!byId("other-panel").hidden) await other(model);
  showCard(model.card);
  showBurst(model);
}

/** The models of the same data, to be seen side by side: the simplest first. */
async function alike(model) {
  const names = models.filter(({ name }) => name !== model.name);
  const others = await Promise.all(names.map(({ name, newest }) => card(name, newest, "beside")));
  const same = others.filter(({ card }) => isPlane(card) && card.data.name === model.card.data.name);
  return [model, ...same].sort((a, b) => a.card.parameters - b.card.parameters);
}

/** A model that the page has no picture for: one row of zeros, for its code. */
async function other(model) {
  const count = model.card.inputs[0].shape.slice(1).reduce((product, size) => product * size, 1);
  byId("other-panel").textContent = say("other", { count: whole(count) });
  const size = count * (model.card.inputs[0].datatype === "UINT8" ? 1 : 4);
  await infer("rows", model, new Uint8Array(size), { imports: [], before: [], bytes: `bytes(${size})` });
}

function renderChoice() {
  byId("model").replaceChildren(
    ...models.map(({ name }) => make("option", { value: name, selected: name === chosen?.name }, name)),
  );
  byId("model").disabled = byId("version").disabled = !models.length;
  const model = models.find(({ name }) => name === chosen?.name);
  byId("version").replaceChildren(
    ...(model?.versions ?? []).map((version) => {
      const words = version === model.newest ? say("newest", { version }) : String(version);
      return make("option", { value: version, selected: version === chosen.version }, words);
    }),
  );
  byId("model-line").textContent = chosen ? line(chosen.card) : "";
  if (!models.length && server) nothing();
}

function line({ architecture, metrics, data }) {
  const [what, accuracy] = [say(`architecture_${architecture.name}`), percent(metrics.test_accuracy)];
  return say("line", { what, accuracy, rows: whole(data.test) });
}

function about() {
  byId("about").textContent = server ? say("about", { version: server.version }) : "";
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", document.documentElement.lang.startsWith(button.dataset.language));
}

function openKey(note) {
  byId("key").hidden = false;
  byId("key-note").textContent = say(note);
  byId("key-note").dataset.say = note;
  byId("key-value").focus();
}

byId("model").addEventListener("change", (event) => choose(event.target.value).catch(fail));
byId("version").addEventListener("change", (event) => choose(chosen.name, Number(event.target.value)).catch(fail));
byId("key-open").addEventListener("click", () => openKey("keyNote"));
events.addEventListener("locked", () => openKey("keyWanted"));
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  byId("key").hidden = true;
  clearProblem();
  useKey(byId("key-value").value.trim());
  byId("key-value").value = "";
  if (!chosen) begin();
});
for (const button of document.querySelectorAll("[data-language]"))
  button.addEventListener("click", () => speak(button.dataset.language));
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && chosen) list().catch(fail); // models come and go while nobody looks
});

speak(preferred());
spoken(about);
spoken(renderChoice);
listen();
watch();
begin();
