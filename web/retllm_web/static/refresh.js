// Update the other parts of a page after a change in one of them.

const PAUSE_MS = 3000;
// while the page says that there is nothing
const FIRST_PAUSE_MS = 700;
let last = 0;
let timer = null;

// Do it now and then while something goes on: at the latest some seconds after this call.
export function refreshSoon(address) {
  const pause = document.querySelector("[data-items] > li") ? PAUSE_MS : FIRST_PAUSE_MS;
  timer ??= setTimeout(() => refresh(address).catch(() => {}), Math.max(0, last + pause - performance.now()));
}

export async function refresh(address) {
  clearTimeout(timer);
  timer = null;
  last = performance.now();
  const here = new URL(address, location.href);
  // as this page is filtered and laid out
  if (here.pathname === location.pathname) here.search = location.search;
  const answer = await fetch(here, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const next = fresh.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
    if (!next || part.innerHTML === next.innerHTML || isInUse(part, next)) continue;
    part.replaceChildren(...next.childNodes);
    // scripts of a parsed text do not run by themselves
    for (const script of part.querySelectorAll("script[src]")) import(script.src);
  }
}

// Keep a form that the user may be filling in, and a list with selected items or with more than its first page.
function isInUse(part, next) {
  if (part.dataset.refresh === "search") return part.querySelector("form") !== null;
  if (part.querySelector(".tile-check:checked")) return true;
  if (part.contains(document.activeElement)) return true;
  const count = (area) => area.querySelectorAll("[data-items] > li").length;
  return part.dataset.refresh === "items" && next.querySelector("[data-more]") !== null && count(part) > count(next);
}
