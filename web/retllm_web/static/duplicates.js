// Keys for the current group of near-duplicates: 1 to 9 choose what is kept, d deletes the others, n dismisses the group.
import { current } from "./keys.js";

const FIELDS = "input:not([type=checkbox]), textarea, select, [contenteditable=true]";
const BUTTONS = { d: "[data-keep]", n: "[data-dismiss]" };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target.matches?.(FIELDS) || document.querySelector("dialog[open]")) return;
  const group = document.activeElement?.closest("[data-row]") ?? current();
  const wanted = /^[1-9]$/.test(event.key)
    ? group?.querySelectorAll("input[name=keep]")[Number(event.key) - 1]
    : BUTTONS[event.key] && group?.querySelector(BUTTONS[event.key]);
  if (!wanted) return;
  event.preventDefault();
  wanted.click();
});
