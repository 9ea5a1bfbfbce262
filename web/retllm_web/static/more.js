// "Show more" puts the next items below those that are there; without this it is a link to the next page.
import { piece } from "./piece.js";

export function moreItems() {
  document.addEventListener("click", async (event) => {
    const link = event.target.closest("[data-more] a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (link.getAttribute("aria-busy") === "true") return;
    link.setAttribute("aria-busy", "true");
    link.textContent = "Loading…";
    try {
      const next = await piece(link.href);
      const area = link.closest("[data-items-area]");
      const fresh = [...next.querySelectorAll("[data-items] > li")];
      area.querySelector("[data-items]").append(...fresh);
      const more = next.querySelector("[data-more]");
      const old = link.closest("[data-more]");
      if (more) old.replaceWith(more); else old.remove();
      // the keyboard goes on where the new items begin
      fresh[0]?.querySelector("a")?.focus({ preventScroll: true });
    } catch {
      // as without a script: whatever is wrong is told by the page itself
      location.assign(link.href);
    }
  });
}
