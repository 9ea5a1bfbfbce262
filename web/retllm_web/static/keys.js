// Keyboard shortcuts of every page: / to search, j and k to move in a list, x to select, ? to show the shortcuts.
// Lists have data-rows and their entries data-row. A page can override a key by preventing its default action.

const FIELDS = "input, textarea, select, [contenteditable=true]";

export function keys() {
  const dialog = document.querySelector("[data-keys]");
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.target.matches?.(FIELDS) && event.target.type !== "checkbox") return;
    if (document.querySelector("dialog[open]") && event.key !== "?") return;
    const action = ACTIONS[event.key];
    if (!action) return;
    if (action(dialog)) event.preventDefault();
  });
}

const ACTIONS = {
  "/": () => {
    const field = document.querySelector("[data-search-field]");
    if (field) { field.focus(); field.select?.(); return true; }
    const link = document.querySelector('nav a[href$="/search"]');
    if (link) link.click();
    return Boolean(link);
  },
  j: () => step(1),
  k: () => step(-1),
  x: () => {
    const box = boxHere();
    box?.click();
    return Boolean(box);
  },
  "?": (dialog) => {
    if (dialog?.open) dialog.close(); else dialog?.showModal();
    return true;
  },
};

export function rows() {
  return [...document.querySelectorAll("[data-rows] [data-row]")].filter((row) => row.offsetParent !== null);
}

export function current() {
  return document.querySelector("[data-rows] [data-row].current");
}

// The checkbox of the entry with the focus, else of the current one.
export function boxHere() {
  const row = document.activeElement?.closest("[data-rows] [data-row]") ?? current();
  return row?.querySelector("input[type=checkbox]") ?? null;
}

export function choose(row) {
  for (const other of document.querySelectorAll("[data-row].current")) other.classList.remove("current");
  row.classList.add("current");
  const first = row.matches("[tabindex]") ? row : row.querySelector("a, button, input:not([type=hidden])") ?? row;
  // before the focus, since it moves the place from which Tab goes on
  row.scrollIntoView({ block: "nearest" });
  first.focus({ preventScroll: true });
}

function step(by) {
  const all = rows();
  if (!all.length) return false;
  const at = all.indexOf(current());
  const next = at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, at + by));
  choose(all[next]);
  return true;
}
