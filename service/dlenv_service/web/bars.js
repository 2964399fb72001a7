// Classes and their probabilities as bars.

import { make, vary } from "./dom.js";
import { sureness } from "./say.js";

/** Fill `list` with one bar for each class; `probabilities` null: not known yet. */
export function bars(list, classes, probabilities) {
  if (list.children.length !== classes.length || list.dataset.of !== classes.join()) {
    list.dataset.of = classes.join();
    list.replaceChildren(
      ...classes.map((name) =>
        make(
          "li",
          {},
          make("span", { class: "name" }, name),
          make("span", { class: "track", "aria-hidden": "true" }, make("span", { class: "fill" })),
          make("span", { class: "share" }),
        ),
      ),
    );
  }
  const best = probabilities && probabilities.indexOf(Math.max(...probabilities));
  [...list.children].forEach((item, i) => {
    item.classList.toggle("best", i === best);
    vary(item, "--share", probabilities ? probabilities[i] : 0);
    item.lastChild.textContent = probabilities ? sureness(probabilities[i]) : "–";
  });
}
