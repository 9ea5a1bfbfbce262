// The page of a job: load re-injection maps into their row on request, and collapse them again.
import { piece } from "./piece.js";

const results = () => document.querySelector("#job");

function placeOf(key) {
  return results()?.querySelector(`[data-map-of="${CSS.escape(key)}"]`);
}

// With JavaScript, the link acts as a button that expands and collapses the map.
function updateLinks() {
  for (const link of document.querySelectorAll("[data-map]")) {
    link.setAttribute("role", "button");
    link.setAttribute("aria-expanded", String(!placeOf(link.dataset.map).hidden));
  }
}

async function expand(link, place) {
  if (!place.firstElementChild) {
    link.setAttribute("aria-busy", "true");
    try {
      place.replaceChildren(await piece(link.href));
    } catch {
      // the page itself shows the error
      location.assign(link.href);
      return;
    } finally {
      link.removeAttribute("aria-busy");
    }
  }
  place.hidden = false;
  updateLinks();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("[data-map]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  if (link.getAttribute("aria-busy") === "true") return;
  const place = placeOf(link.dataset.map);
  if (place.hidden) { expand(link, place); return; }
  place.hidden = true;
  updateLinks();
});

// the space bar activates elements with the role button
document.addEventListener("keydown", (event) => {
  if (event.key !== " " || !event.target.matches?.("[data-map]")) return;
  event.preventDefault();
  event.target.click();
});

document.addEventListener("click", (event) => {
  const opener = event.target.closest("[data-open]");
  const details = opener && document.getElementById(opener.dataset.open);
  if (!details) return;
  // following the link would move the focus again
  event.preventDefault();
  details.open = true;
  details.scrollIntoView({ block: "start" });
  details.querySelector("textarea, input:not([type=hidden])")?.focus({ preventScroll: true });
});

document.addEventListener("live:updated", updateLinks);
updateLinks();
