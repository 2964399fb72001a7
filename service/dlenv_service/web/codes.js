// The page's calls, one of each kind: choose one, see it as code and what was answered, copy it.

import { calls, events } from "./api.js";
import { copies } from "./copy.js";
import { byId, make, still } from "./dom.js";
import { bytes, milliseconds, say, spoken } from "./say.js";
import { curl, python } from "./snippets.js";

const KINDS = ["predict", "point", "rows", "grid", "burst", "card", "stats", "metrics", "models", "server"];
const SHOWN = 3000; // characters of an answer

let chosen = null; // by the reader; before that the first of the list is shown
let language = "curl";

/** Choose a kind of call and go there. */
export function showCode(kind) {
  choose(kind);
  byId("code").scrollIntoView({ behavior: still() ? "auto" : "smooth" });
  byId("code").focus({ preventScroll: true });
}

function choose(kind) {
  chosen = kind;
  renderList();
  render();
}

const shownKind = () => chosen ?? KINDS.find((kind) => calls.has(kind));

function renderList() {
  for (const button of document.querySelectorAll("[data-shows]")) button.disabled = !calls.has(button.dataset.shows);
  const known = KINDS.filter((kind) => calls.has(kind));
  const list = byId("calls");
  const shown = [...list.children].map((item) => item.dataset.kind);
  if (shown.join() !== known.join())
    list.replaceChildren(
      ...known.map((kind) =>
        make(
          "li",
          { "data-kind": kind },
          make(
            "button",
            { type: "button", click: () => choose(kind) },
            make("strong"),
            make("code"),
            make("small", { class: "soft" }),
          ),
        ),
      ),
    );
  for (const item of list.children) {
    const call = calls.get(item.dataset.kind);
    const [name, path, outcome] = item.firstChild.children;
    name.textContent = say(`kind_${call.kind}`);
    path.textContent = `${call.method} ${new URL(call.url).pathname}`;
    outcome.textContent = `${call.status || say("noAnswer")} · ${milliseconds(call.ms)}`;
    item.firstChild.setAttribute("aria-pressed", call.kind === shownKind());
    item.firstChild.classList.toggle("failed", call.status >= 400 || call.status === 0);
  }
}

function render() {
  for (const button of document.querySelectorAll("[data-code]"))
    button.setAttribute("aria-pressed", button.dataset.code === language);
  const call = calls.get(shownKind());
  byId("snippet").textContent = call ? { curl, python }[language](call) : say("waiting");
  byId("answer").textContent = call?.answer ? readable(call) : "";
  byId("answer-line").textContent = call
    ? say("answerLine", {
        status: call.status || say("noAnswer"),
        time: milliseconds(call.ms),
        size: bytes(call.answer?.byteLength ?? 0),
      })
    : "";
}

/** An answer as text: JSON set out over lines, of a binary one its JSON part. */
function readable(call) {
  const end = call.length === null ? call.answer.byteLength : Number(call.length);
  const text = new TextDecoder().decode(call.answer.slice(0, end));
  let shown = text;
  if (call.length !== null || call.type.startsWith("application/json")) {
    try {
      shown = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      shown = text;
    }
  }
  return shown.length > SHOWN ? `${shown.slice(0, SHOWN)} …` : shown;
}

export function listen() {
  for (const button of document.querySelectorAll("[data-code]"))
    button.addEventListener("click", () => {
      language = button.dataset.code;
      render();
    });
  for (const button of document.querySelectorAll("[data-shows]"))
    button.addEventListener("click", () => showCode(button.dataset.shows));
  copies(byId("copy"), byId("snippet"));
  let shown = null;
  events.addEventListener("call", () => {
    renderList();
    const call = calls.get(shownKind());
    // Metrics come every second, and somebody may be reading them: they stay until chosen again.
    if (call !== shown && !(call.kind === "metrics" && shown?.kind === "metrics")) render();
    shown = call;
  });
  spoken(() => {
    renderList();
    render();
  });
}
