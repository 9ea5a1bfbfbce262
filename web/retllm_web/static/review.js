// Marks on results without loading the page again: by a click, or by x and n on the current entry of the list.
import { current } from "./keys.js";
import { Refused, asScript, piece } from "./piece.js";

const IN_USE = "input:not([type=checkbox]), textarea, select, [contenteditable=true]";
const KEYS = { x: "relevant", n: "not" };

// before forms.js and keys.js, which would take the same events
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
  if (event.target.matches?.(IN_USE) || document.querySelector("dialog[open]")) return;
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
    if (focused) again(form.dataset.mark, as, inList);
    say("");
  } catch (problem) {
    say(problem instanceof Refused ? `The mark was not saved: ${reason(problem)}` : "The mark was not saved: the server can't be reached. Try again.");
  } finally {
    form.removeAttribute("aria-busy");
  }
}

function reason(problem) {
  return problem.status === 401 ? "you are logged out. Load the page again to log in." : problem.message;
}

// The pressed button was replaced; the keyboard goes on from the new one.
function again(item, as, row) {
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
    say(problem instanceof Refused ? reason(problem) : "The server can't be reached. Try again.");
  }
}

function say(text) {
  const place = document.querySelector("[data-review-said]");
  if (!place) return;
  place.hidden = text === "";
  place.textContent = text;
}

// x is in the list of keys already; what it does here is written there
const list = document.querySelector("[data-keys] dl");
if (list && !list.querySelector("[data-key-n]")) {
  const [key, told, sign] = ["dt", "dd", "kbd"].map((name) => document.createElement(name));
  sign.textContent = "n";
  key.dataset.keyN = "";
  key.append(sign);
  told.textContent = "among results: mark the entry as not relevant, and again to take the mark away";
  list.lastElementChild.previousElementSibling.before(key, told);
}
