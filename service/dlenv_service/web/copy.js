// Copying text, and saying that it is copied.

import { say, spoken } from "./say.js";

const SHOWN_MS = 1500;

/** Make a button copy what an element shows. */
export function copies(button, element) {
  let copied = false;
  const render = () => (button.textContent = say(copied ? "copied" : "copy"));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(element.textContent);
    } catch {
      // Without TLS, browsers have no clipboard for pages from another machine; the old way still works there.
      getSelection().selectAllChildren(element);
      document.execCommand("copy");
    }
    copied = true;
    render();
    setTimeout(() => {
      copied = false;
      render();
    }, SHOWN_MS);
  });
  spoken(render);
}
