// Keeps a part of a page current while its job is at work: asks for it again, changes what changed, moves what moved.
import { Refused, piece } from "./piece.js";
import { refresh } from "./refresh.js";

const EVERY_MS = 700;
const LONGEST_MS = 30000;
const PATIENCE_MS = 10000;
const MOVE_MS = 350;

export function follow(root) {
  const lost = root.querySelector("[data-lost]");
  let timer = null;
  let failures = 0;
  let asking = false;

  const isOver = () => root.dataset.over === "true";

  function plan(wait) {
    clearTimeout(timer);
    if (!isOver() && !document.hidden) timer = setTimeout(ask, wait);
  }

  async function ask() {
    if (asking || isOver()) return;
    asking = true;
    try {
      const signal = AbortSignal.timeout(PATIENCE_MS);
      const fresh = (await piece(root.dataset.live, { signal })).querySelector("[data-live]");
      update(root, fresh);
      root.dataset.over = fresh.dataset.over;
      failures = 0;
      lost.hidden = true;
      if (isOver() && root.dataset.then) await refresh(root.dataset.then);
      plan(EVERY_MS);
    } catch (problem) {
      failures += 1;
      tell(problem);
    } finally {
      asking = false;
    }
  }

  function tell(problem) {
    lost.hidden = false;
    if (problem instanceof Refused && problem.status === 401) {
      lost.textContent = "You are logged out. Load the page again to log in.";
      return;
    }
    if (problem instanceof Refused && problem.status === 404) {
      lost.textContent = "This was deleted meanwhile.";
      return;
    }
    const wait = Math.min(LONGEST_MS, EVERY_MS * 2 ** failures);
    lost.textContent = `Connection lost; what you see may be old. Trying again in ${Math.ceil(wait / 1000)} s.`;
    plan(wait);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : plan(0)));
  // something began elsewhere on the page, such as the index job after an upload
  root.addEventListener("live:wake", () => { root.dataset.over = "false"; plan(0); });
  plan(EVERY_MS);
}

function update(root, fresh) {
  for (const list of fresh.querySelectorAll("[data-list]")) {
    reorder(root.querySelector(`[data-list="${list.dataset.list}"]`), list);
  }
  for (const part of fresh.querySelectorAll("[data-part]")) {
    const old = root.querySelector(`[data-part="${part.dataset.part}"]`);
    // a new list entry came with its parts; an unchanged part keeps its focus and its selection
    if (old && said(old) !== said(part)) old.innerHTML = part.innerHTML;
  }
}

// The token of a form is another one in every answer and says nothing new.
function said(part) {
  return part.innerHTML.replace(/(name="csrf_token" value=")[^"]*/g, "$1");
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
