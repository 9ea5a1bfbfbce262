// Update the other parts of a page after a change in one of them.

export async function refresh(address) {
  const answer = await fetch(address, { cache: "no-store" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-refresh]")) {
    const next = fresh.querySelector(`[data-refresh="${part.dataset.refresh}"]`);
    if (next && !isInUse(part, next)) part.replaceChildren(...next.childNodes);
  }
}

// Keep a form that the user may be filling in, and a list with more items than its first page.
function isInUse(part, next) {
  if (part.dataset.refresh === "search") return part.querySelector("form") !== null;
  if (part.contains(document.activeElement)) return true;
  const count = (area) => area.querySelectorAll("[data-items] > li").length;
  return part.dataset.refresh === "items" && next.querySelector("[data-more]") !== null && count(part) > count(next);
}
