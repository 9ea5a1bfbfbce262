// Keeps a part of a page current while its job is at work: asks for it again, changes what changed, moves what moved.
// What did not change costs the server one small query (304); when that lasts, it is asked less often.
// data-live is the address, data-over="true" ends it, data-every is the least time between two questions, in ms.
import { Refused, changed } from "./piece.js";
import { refresh } from "./refresh.js";

const EVERY_MS = 700;
const LONGEST_MS = 30000;
const PATIENCE_MS = 10000;
const MOVE_MS = 350;
// so many answers without news come at full pace, then each wait is longer by this factor
const QUIET_ANSWERS = 15;
const SLOWER = 1.3;
const SLOWEST_MS = 10000;
const IN_FOCUS = "a[href], button, input, select, textarea, summary, [tabindex]";

export function follow(root) {
  const lost = root.querySelector("[data-lost]");
  const every = Number(root.dataset.every) || EVERY_MS;
  let timer = null;
  let failures = 0;
  let quiet = 0;
  let tag = null;
  let asking = false;

  const isOver = () => root.dataset.over === "true";

  function plan(wait) {
    clearTimeout(timer);
    if (!isOver() && !document.hidden) timer = setTimeout(ask, wait);
  }

  function pace() {
    const slower = every * SLOWER ** Math.max(0, quiet - QUIET_ANSWERS);
    return Math.max(every, Math.min(SLOWEST_MS, slower));
  }

  async function ask() {
    if (asking || isOver()) return;
    asking = true;
    try {
      const answer = await changed(root.dataset.live, tag, { signal: AbortSignal.timeout(PATIENCE_MS) });
      tag = answer.tag;
      quiet = answer.content ? 0 : quiet + 1;
      if (answer.content) show(answer.content.querySelector("[data-live]"));
      failures = 0;
      if (lost) lost.hidden = true;
      if (isOver() && root.dataset.then) await refresh(root.dataset.then);
      plan(pace());
    } catch (problem) {
      failures += 1;
      tell(problem);
    } finally {
      asking = false;
    }
  }

  function show(fresh) {
    update(root, fresh);
    root.dataset.over = fresh.dataset.over;
    root.dispatchEvent(new CustomEvent("live:updated", { bubbles: true }));
  }

  function tell(problem) {
    const gone = problem instanceof Refused && { 401: "You are logged out. Load the page again to log in.", 404: "This was deleted meanwhile." }[problem.status];
    const wait = Math.max(every, Math.min(LONGEST_MS, EVERY_MS * 2 ** failures));
    if (lost) {
      lost.hidden = false;
      lost.textContent = gone || `Connection lost; what you see may be old. Trying again in ${Math.ceil(wait / 1000)} s.`;
    }
    if (!gone) plan(wait);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : plan(0)));
  // something began elsewhere on the page, such as the index job after an upload
  root.addEventListener("live:wake", () => { root.dataset.over = "false"; quiet = 0; plan(0); });
  plan(every);
}

function update(root, fresh) {
  for (const list of fresh.querySelectorAll("[data-list]")) {
    const old = root.querySelector(`[data-list="${list.dataset.list}"]`);
    if (old) reorder(old, list);
  }
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = root.querySelector(`[data-part="${part.dataset.part}"]`);
    // a new list entry came with its parts; an unchanged part keeps its focus and its selection
    if (old && said(old) !== said(part)) replace(old, part);
  }
}

// The token of a form is another one in every answer, and what somebody unfolded is theirs: neither is news.
function said(part) {
  return part.innerHTML.replace(/(name="csrf_token" value=")[^"]*/g, "$1").replace(/(<details[^>]*?) open=""/g, "$1");
}

// What is in focus and what is unfolded stay so, if they are still there.
function replace(old, part) {
  const focused = [...old.querySelectorAll(IN_FOCUS)].indexOf(document.activeElement);
  const unfolded = [...old.querySelectorAll("details[id][open]")].map((one) => one.id);
  old.innerHTML = part.innerHTML;
  for (const one of old.querySelectorAll("details[id]")) one.open ||= unfolded.includes(one.id);
  if (focused >= 0) old.querySelectorAll(IN_FOCUS)[focused]?.focus({ preventScroll: true });
}

function reorder(list, fresh) {
  const before = new Map([...list.children].map((entry) => [entry.dataset.key, entry]));
  const places = new Map([...before].map(([key, entry]) => [key, entry.getBoundingClientRect()]));
  const wanted = [...fresh.children].map((entry) => {
    const old = before.get(entry.dataset.key);
    before.delete(entry.dataset.key);
    if (!old) return document.importNode(entry, true);
    old.dataset.rank = entry.dataset.rank;
    return old;
  });
  for (const gone of before.values()) gone.remove();
  const focused = document.activeElement;
  wanted.forEach((entry, index) => {
    if (list.children[index] !== entry) list.insertBefore(entry, list.children[index] ?? null);
  });
  // moving an entry takes the focus from what is in it
  if (focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
  animate(wanted, places);
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
