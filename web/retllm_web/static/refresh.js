// Brings the other parts of a page up to date with what happened in one of them.

export async function refresh(address) {
  const answer = await fetch(address, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const next = fresh.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
    if (next && !isInUse(part, next)) part.replaceChildren(...next.childNodes);
  }
}

// A form that may be half filled in stays, and so does a list that was made longer than its first page.
function isInUse(part, next) {
  if (part.dataset.refresh === "search") return part.querySelector("form") !== null;
  if (part.contains(document.activeElement)) return true;
  const count = (area) => area.querySelectorAll("[data-items] > li").length;
  return part.dataset.refresh === "items" && next.querySelector("[data-more]") !== null && count(part) > count(next);
}
