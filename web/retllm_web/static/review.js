// Mark results without reloading the page: by a click, or by x and n on the current entry.
import { current } from "./keys.js";
import { Refused, asScript, piece } from "./piece.js";

const FIELDS = "input:not([type=checkbox]), textarea, select, [contenteditable=true]";
const KEYS = { x: "relevant", n: "not" };

// in the capture phase, before forms.js and keys.js handle the same events
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.matches("form[data-mark]")) {
    event.preventDefault();
    mark(form, event.submitter);
  } else if (form.matches("form[data-find]")) {
    event.preventDefault();
    find(form);
  }
}, true);

document.addEventListener("keydown", (event) => {
  const as = KEYS[event.key];
  if (!as || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches?.(FIELDS) || document.querySelector("dialog[open]")) return;
  const button = current()?.querySelector(`form[data-mark] [data-mark-as="${as}"]`);
  if (!button) return;
  event.preventDefault();
  button.click();
}, true);

async function mark(form, button) {
  if (form.getAttribute("aria-busy") === "true") return;
  form.setAttribute("aria-busy", "true");
  const as = button.dataset.markAs;
  const inList = form.closest("[data-row]");
  try {
    const answer = await piece(form.action, { method: "POST", body: new FormData(form, button), headers: asScript });
    const focused = form.contains(document.activeElement);
    for (const part of answer.querySelectorAll("[data-part]")) {
      for (const old of document.querySelectorAll(`[data-part="${part.dataset.part}"]`)) old.innerHTML = part.innerHTML;
    }
    if (focused) refocus(form.dataset.mark, as, inList);
    showMessage("");
  } catch (problem) {
    showMessage(problem instanceof Refused ? `The mark was not saved: ${reason(problem)}` : "The mark was not saved: the server cannot be reached. Try again.");
  } finally {
    form.removeAttribute("aria-busy");
  }
}

function reason(problem) {
  return problem.status === 401 ? "you are logged out. Reload the page to log in." : problem.message;
}

// Focus the new button that replaces the pressed one.
function refocus(item, as, row) {
  const place = row?.isConnected ? row : document;
  place.querySelector(`form[data-mark="${item}"] [data-mark-as="${as}"]`)?.focus({ preventScroll: true });
}

async function find(form) {
  const place = document.querySelector("[data-found]");
  const address = new URL(form.action);
  address.search = new URLSearchParams(new FormData(form)).toString();
  try {
    const found = await piece(address);
    place.replaceChildren(found);
  } catch (problem) {
    showMessage(problem instanceof Refused ? reason(problem) : "The server cannot be reached. Try again.");
  }
}

function showMessage(text) {
  const place = document.querySelector("[data-review-said]");
  if (!place) return;
  place.hidden = text === "";
  place.textContent = text;
}

// add n to the list of keyboard shortcuts, which already has x
const list = document.querySelector("[data-keys] dl");
if (list && !list.querySelector("[data-key-n]")) {
  const [key, description, sign] = ["dt", "dd", "kbd"].map((name) => document.createElement(name));
  sign.textContent = "n";
  key.dataset.keyN = "";
  key.append(sign);
  description.textContent = "in search results: mark as not relevant, or remove the mark";
  list.lastElementChild.previousElementSibling.before(key, description);
}
