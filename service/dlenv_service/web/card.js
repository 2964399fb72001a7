// A model's card: what its manifest says.

import { copies } from "./copy.js";
import { byId, make, vary } from "./dom.js";
import { bytes, percent, say, short, spoken, whole } from "./say.js";

const LARGEST_TABLE = 20; // classes; of more, the most frequent confusions are listed

let card = null;

export function showCard(next) {
  card = next;
  render();
}

function render() {
  byId("model-card").hidden = !card;
  if (!card) return;
  byId("facts").replaceChildren(...listed(facts()));
  byId("making").replaceChildren(...listed(making()));
  byId("command").textContent = card.training.command;
  const rows = whole(card.data.test);
  const many = card.classes.length > LARGEST_TABLE;
  byId("confusion").replaceChildren(
    make("h3", {}, say("confusion")),
    make("p", { class: "soft" }, many ? say("confusionTop") : say("confusionLead", { rows })),
    many
      ? worst()
      : make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": say("confusion") }, table()),
  );
}

function facts() {
  const { architecture, data, metrics, served } = card;
  const details = Object.entries(architecture.arguments).filter(([name]) => !["input_shape", "classes"].includes(name));
  const input = card.inputs[0];
  return [
    ["accuracy", make("strong", {}, percent(metrics.test_accuracy, 2))],
    ["loss", short(metrics.test_loss)],
    [
      "architecture",
      say(`architecture_${architecture.name}`),
      note(details.map(([name, value]) => `${name} ${listedNames(value)}`).join(" · ")),
    ],
    ["parameters", whole(card.parameters)],
    ["input", make("code", {}, `${input.name} ${input.datatype} [${input.shape.join(", ")}]`)],
    ["classes", card.classes.length > LARGEST_TABLE ? whole(card.classes.length) : card.classes.join(", ")],
    ["data", make("strong", {}, data.name), note(data.source)],
    ["split", say("splits", { train: whole(data.train), validation: whole(data.validation), test: whole(data.test) })],
    ["license", data.license],
    ["runs", say("runsAs", { device: served.device, engine: served.engine, batch: whole(served.max_batch) })],
  ];
}

// One value, or several; of an ensemble's members the name is enough.
function listedNames(value) {
  return [value]
    .flat()
    .map((each) => each.name ?? each)
    .join(", ");
}

function making() {
  const { training, files } = card;
  const [[name, weights]] = Object.entries(files);
  return [
    ["trained", say("trainedAs", { date: training.created.slice(0, 10), torch: training.torch, seed: training.seed })],
    ["file", `${name}, ${bytes(weights.bytes)}`, note(`SHA-256 ${weights.sha256}`)],
  ];
}

const listed = (rows) => rows.flatMap(([name, ...value]) => [make("dt", {}, say(name)), make("dd", {}, ...value)]);
const note = (text) => make("small", { class: "soft" }, text);

function table() {
  const { classes } = card;
  const head = make(
    "tr",
    {},
    make("td"),
    classes.map((name) => make("th", { scope: "col" }, name)),
  );
  const body = card.metrics.confusion.map((row, was) => {
    const total = Math.max(
      1,
      row.reduce((sum, count) => sum + count, 0),
    );
    const cells = row.map((count, said) => {
      const title = say("cell", { was: classes[was], said: classes[said], count: whole(count) });
      const kind = was === said ? "right" : count ? "wrong" : "none";
      return vary(
        make("td", { title, class: kind }, count || was === said ? whole(count) : "·"),
        "--share",
        count / total,
      );
    });
    return make("tr", {}, make("th", { scope: "row" }, classes[was]), cells);
  });
  const matrix = make("table", { class: "confusion" }, make("thead", {}, head), make("tbody", {}, body));
  return vary(matrix, "--classes", classes.length);
}

function worst() {
  const { classes } = card;
  const pairs = card.metrics.confusion.flatMap((row, was) =>
    row.map((count, said) => ({ was: classes[was], said: classes[said], count, right: was === said })),
  );
  const wrong = pairs.filter((pair) => pair.count && !pair.right).sort((a, b) => b.count - a.count);
  return make(
    "ul",
    {},
    wrong.slice(0, LARGEST_TABLE).map((pair) => make("li", {}, say("confused", { ...pair, count: whole(pair.count) }))),
  );
}

copies(byId("copy-command"), byId("command"));
spoken(render);
