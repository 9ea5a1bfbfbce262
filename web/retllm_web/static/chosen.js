// Selection of items: the count, all or none, and ranges: Shift with a click or with x selects from the last one on.
// The form is data-chosen-items; the checkboxes of the items, which may come later, have the class tile-check.
import { boxHere } from "./keys.js";

const form = () => document.querySelector("[data-chosen-items]");
const boxes = () => [...document.querySelectorAll(".tile-check")];
let last = null;

function show() {
  const bar = form();
  if (!bar) return;
  const all = boxes();
  const chosen = all.filter((box) => box.checked);
  const matching = bar.querySelector("[data-all-matching]");
  for (const box of all) box.closest("[data-row]").classList.toggle("chosen-tile", box.checked || matching.checked);
  const here = bar.querySelector("[data-all-here]");
  here.checked = all.length > 0 && chosen.length === all.length;
  here.indeterminate = chosen.length > 0 && chosen.length < all.length;
  const some = chosen.length > 0 || matching.checked;
  bar.querySelector("[data-none]").hidden = !some;
  // changed only if needed, since a screen reader reads each change
  const text = matching.checked ? "All selected" : chosen.length ? `${chosen.length.toLocaleString("en")} selected` : "";
  const count = bar.querySelector("[data-count]");
  if (count.textContent !== text) count.textContent = text;
}

function selectRange(box) {
  const all = boxes();
  const [from, to] = [all.indexOf(last), all.indexOf(box)].sort((a, b) => a - b);
  for (const other of from < 0 ? [box] : all.slice(from, to + 1)) other.checked = box.checked;
}

function selectNone() {
  for (const box of boxes()) box.checked = false;
  form().querySelector("[data-all-matching]").checked = false;
  last = null;
  show();
}

document.addEventListener("click", (event) => {
  if (event.target.closest?.("[data-none]")) selectNone();
  if (!event.target.matches?.(".tile-check")) return;
  if (event.shiftKey) selectRange(event.target);
  last = event.target;
  show();
});
document.addEventListener("change", (event) => {
  if (event.target.matches?.("[data-all-here]")) for (const box of boxes()) box.checked = event.target.checked;
  if (event.target.matches?.(".tile-check") || form()?.contains(event.target)) show();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  // it would send the form with its first button, which may belong to another field
  if (event.key === "Enter" && event.target.matches?.(".chosen .input-group input")) {
    event.preventDefault();
    event.target.closest(".input-group").querySelector("button").click();
  }
  if (event.key === "Enter" && event.target.matches?.("[data-chosen-items] [type=checkbox], .tile-check")) event.preventDefault();
  if (event.key !== "X" || event.target.matches?.("select, textarea, input:not([type=checkbox])")) return;
  const box = boxHere();
  if (!box?.matches(".tile-check")) return;
  box.checked = !box.checked;
  selectRange(box);
  last = box;
  show();
});
// a page restored from the back/forward cache keeps its selection
addEventListener("pageshow", show);
show();
