// What is told apart from the picture: errors as what they are, and one sentence for screen readers.

import { byId } from "./dom.js";
import { say } from "./say.js";

// A screen reader should hear the answer, not every step on the way to it.
const SETTLED_MS = 700;
let timer = 0;

export function showProblem(error) {
  const problem = byId("problem");
  const title = document.createElement("strong");
  title.textContent = error.status ? say("failed", { status: error.status }) : say("noAnswer");
  const reason = document.createElement("span");
  if (error.status) reason.lang = "en"; // the service's own words
  reason.textContent = error.message;
  problem.replaceChildren(title, reason);
  problem.hidden = false;
}

export function clearProblem() {
  byId("problem").hidden = true;
}

/** Say it to screen readers once nothing new has come for a moment. */
export function announce(words) {
  clearTimeout(timer);
  timer = setTimeout(() => (byId("spoken").textContent = words()), SETTLED_MS);
}
