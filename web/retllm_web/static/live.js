// Poll a part of a page while its job is running, replace what changed and move what moved.
// An unchanged part costs the server one small query (304); after several of them the interval grows.
// data-live is the address, data-over="true" stops polling, data-every is the minimum interval in ms.
import { Refused, answered, changed } from "./piece.js";
import { refresh, refreshSoon } from "./refresh.js";

const INTERVAL_MS = 700;
const MAX_RETRY_MS = 30000;
const TIMEOUT_MS = 10000;
const MOVE_MS = 350;
// after this many unchanged answers, each interval grows by this factor
const UNCHANGED_ANSWERS = 15;
const GROWTH = 1.3;
const MAX_INTERVAL_MS = 10000;
const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

export function follow(root) {
  const lost = root.querySelector("[data-lost]");
  const every = Number(root.dataset.every) || INTERVAL_MS;
  let timer = null;
  let failures = 0;
  let isAway = false;
  let unchanged = 0;
  let tag = null;
  let polling = false;
  let woken = false;

  const isOver = () => root.dataset.over === "true";

  function schedule(wait) {
    clearTimeout(timer);
    if (!isOver() && !document.hidden) timer = setTimeout(poll, wait);
  }

  function wake() {
    woken = polling;
    root.dataset.over = "false";
    unchanged = 0;
    schedule(0);
  }

  function nextInterval() {
    const interval = every * GROWTH ** Math.max(0, unchanged - UNCHANGED_ANSWERS);
    return Math.max(every, Math.min(MAX_INTERVAL_MS, interval));
  }

  async function poll() {
    if (polling || isOver()) return;
    polling = true;
    try {
      const answer = await changed(root.dataset.live, tag, { signal: AbortSignal.timeout(TIMEOUT_MS) });
      tag = answer.tag;
      unchanged = answer.content ? 0 : unchanged + 1;
      if (answer.content) show(answer.content.querySelector("[data-live]"));
      failures = 0;
      isAway = false;
      if (lost) lost.hidden = true;
      answered();
      if (root.dataset.then && isOver()) await refresh(root.dataset.then);
      else if (root.dataset.then && answer.content) refreshSoon(root.dataset.then);
      schedule(nextInterval());
    } catch (problem) {
      failures += 1;
      showError(problem);
    } finally {
      polling = false;
      // the answer was on its way before that
      if (woken) wake();
    }
  }

  function show(fresh) {
    update(root, fresh);
    root.dataset.over = fresh.dataset.over;
    root.dispatchEvent(new CustomEvent("live:updated", { bubbles: true }));
  }

  function showError(problem) {
    isAway = !(problem instanceof Refused);
    const gone = !isAway && { 401: "You are logged out. Reload the page to log in.", 404: "This was deleted." }[problem.status];
    const wait = Math.max(every, Math.min(MAX_RETRY_MS, INTERVAL_MS * 2 ** failures));
    if (lost) {
      lost.hidden = false;
      lost.textContent = gone || `Connection lost. The page may be out of date. Retrying in ${Math.ceil(wait / 1000)} s.`;
    }
    if (!gone) schedule(wait);
  }

  // another request was answered, so the connection is back
  function goOn() {
    if (!isAway) return;
    isAway = false;
    failures = 0;
    if (lost) lost.hidden = true;
    wake();
  }

  document.addEventListener("server:answered", goOn);
  addEventListener("online", goOn);
  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : schedule(0)));
  // another part of the page started work, such as the index job after an upload
  root.addEventListener("live:wake", wake);
  schedule(every);
}

function update(root, fresh) {
  for (const list of fresh.querySelectorAll("[data-list]")) {
    const old = root.querySelector(`[data-list="${list.dataset.list}"]`);
    if (old) reorder(old, list);
  }
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = root.querySelector(`[data-part="${part.dataset.part}"]`);
    // a new list entry already has its parts; an unchanged part keeps its focus and selection
    if (old && comparable(old) !== comparable(part)) replace(old, part);
  }
}

// Ignore the CSRF token, which differs in every answer, and the state of details elements, which the user controls.
function comparable(part) {
  return part.innerHTML.replace(/(name="csrf_token" value=")[^"]*/g, "$1").replace(/(<details[^>]*?) open=""/g, "$1");
}

// Keep the focus and open details elements.
function replace(old, part) {
  const focused = [...old.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  const open = [...old.querySelectorAll("details[id][open]")].map((details) => details.id);
  old.innerHTML = part.innerHTML;
  for (const details of old.querySelectorAll("details[id]")) details.open ||= open.includes(details.id);
  if (focused >= 0) old.querySelectorAll(FOCUSABLE)[focused]?.focus({ preventScroll: true });
}

function reorder(list, fresh) {
  const before = new Map([...list.children].map((entry) => [entry.dataset.key, entry]));
  const places = new Map([...before].map(([key, entry]) => [key, entry.getBoundingClientRect()]));
  const ordered = [...fresh.children].map((entry) => {
    const old = before.get(entry.dataset.key);
    before.delete(entry.dataset.key);
    if (!old) return document.importNode(entry, true);
    old.dataset.rank = entry.dataset.rank;
    return old;
  });
  for (const removed of before.values()) removed.remove();
  const focused = document.activeElement;
  ordered.forEach((entry, index) => {
    if (list.children[index] !== entry) list.insertBefore(entry, list.children[index] ?? null);
  });
  // moving an entry removes the focus from elements inside it
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
  animate(ordered, places);
}

function animate(entries, places) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const entry of entries) {
    const from = places.get(entry.dataset.key);
    const options = { duration: MOVE_MS, easing: "ease-out" };
    if (!from) {
      entry.animate([{ opacity: 0 }, { opacity: 1 }], options);
      continue;
    }
    const to = entry.getBoundingClientRect();
    const [dx, dy] = [from.left - to.left, from.top - to.top];
    if (dx || dy) entry.animate([{ transform: `translate(${dx}px, ${dy}px)` }, { transform: "none" }], options);
  }
}
