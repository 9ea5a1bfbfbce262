// The page of a job: maps are fetched into their row when somebody asks for one, and folded away again.
import { piece } from "./piece.js";

const results = () => document.querySelector("#job");

function placeOf(key) {
  return results()?.querySelector(`[data-map-of="${CSS.escape(key)}"]`);
}

// The link is a link without a script; with one it folds and unfolds what it would have led to.
function dress() {
  for (const link of document.querySelectorAll("[data-map]")) {
    link.setAttribute("role", "button");
    link.setAttribute("aria-expanded", String(!placeOf(link.dataset.map).hidden));
  }
}

async function unfold(link, place) {
  if (!place.firstElementChild) {
    link.setAttribute("aria-busy", "true");
    try {
      place.replaceChildren(await piece(link.href));
    } catch {
      // whatever is wrong is told by the page itself
      location.assign(link.href);
      return;
    } finally {
      link.removeAttribute("aria-busy");
    }
  }
  place.hidden = false;
  dress();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-map]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.getAttribute("aria-busy") === "true") return;
  const place = placeOf(link.dataset.map);
  if (place.hidden) { unfold(link, place); return; }
  place.hidden = true;
  dress();
});

// what plays the part of a button is pressed with the space bar too
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches?.("[data-map]")) return;
  event.preventDefault();
  event.target.click();
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  const details = opener && document.getElementById(opener.dataset.open);
  if (!details) return;
  // following the link would take the focus away again
  event.preventDefault();
  details.open = true;
  details.scrollIntoView({ block: "start" });
  details.querySelector("textarea, input:not([type=hidden])")?.focus({ preventScroll: true });
});

document.addEventListener("live:updated", dress);
dress();
