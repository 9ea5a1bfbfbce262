// "Show more" appends the next items; without JavaScript it is a link to the next page.
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
      let more = link.closest("[data-more]");
      let fresh = [];
      // with a filter, a page may have no items although there are more pages
      while (more && !fresh.length) {
        const next = await piece(more.querySelector("a").href);
        fresh = [...next.querySelectorAll("[data-items] > li")];
        more = next.querySelector("[data-more]");
      }
      const area = link.closest("[data-items-area]");
      area.querySelector("[data-items]").append(...fresh);
      const old = link.closest("[data-more]");
      if (more) old.replaceWith(more); else old.remove();
      // focus the first new item
      fresh[0]?.querySelector("a")?.focus({ preventScroll: true });
    } catch {
      // follow the link; the page itself shows the error
      location.assign(link.href);
    }
  });
}
