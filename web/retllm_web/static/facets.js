// Load what the items of a list have in common when that is opened, and keep it open on the links of the list. In the
// search form, a link sets the filter instead, so that nothing of the form is lost.
import { piece } from "./piece.js";

// the element is replaced when the list is refreshed
document.addEventListener("toggle", (event) => {
  if (event.target.matches("[data-facets]")) opened(event.target);
}, true);
// opened or closed before this was loaded
for (const fold of document.querySelectorAll("[data-facets]")) {
  if (fold.open !== new URLSearchParams(location.search).has("facets")) opened(fold);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("form [data-facets] a[href]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  const fold = link.closest("[data-facets]");
  const field = link.closest("form").elements.filter;
  field.value = new URL(link.href).searchParams.get("filter") ?? "";
  fold.querySelector("summary").focus();
  field.dispatchEvent(new Event("change", { bubbles: true }));
});
document.addEventListener("change", (event) => {
  const fold = event.target.matches?.("[name=filter], [name=collection]") && event.target.form?.querySelector("[data-facets]");
  if (!fold) return;
  fold.hidden = event.target.form.elements.collection.value === "all";
  delete fold.querySelector("[data-facets-shown]").dataset.loaded;
  if (fold.open && !fold.hidden) opened(fold);
});

function addressOf(fold) {
  const form = fold.closest("form");
  if (!form) return fold.dataset.facets;
  const asked = new URLSearchParams({ of: "search", filter: form.elements.filter.value });
  return `${fold.dataset.facets}/${form.elements.collection.value}/facets?${asked}`;
}

async function opened(fold) {
  remember(fold);
  const shown = fold.querySelector("[data-facets-shown]");
  if (!fold.open || "loaded" in shown.dataset) return;
  const address = addressOf(fold);
  shown.dataset.loaded = address;
  shown.setAttribute("aria-busy", "true");
  try {
    const fresh = await piece(address);
    // the filter may be another one by now
    if (shown.dataset.loaded !== address) return;
    shown.replaceChildren(fresh);
  } catch (problem) {
    delete shown.dataset.loaded;
    shown.textContent = `${problem.message} Close and open this to try again.`;
  }
  shown.removeAttribute("aria-busy");
}

// The address of this page and of its views say whether it is open.
function remember(fold) {
  const marked = (address) => {
    const url = new URL(address, location.href);
    if (fold.open) url.searchParams.set("facets", "1"); else url.searchParams.delete("facets");
    return url.href;
  };
  history.replaceState(history.state, "", marked(location.href));
  for (const link of fold.parentElement.querySelectorAll("a[href]")) {
    if (link.pathname === location.pathname) link.href = marked(link.href);
  }
  for (const field of fold.parentElement.querySelectorAll("input[name=facets]")) field.disabled = !fold.open;
}
