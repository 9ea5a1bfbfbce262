// Selection in the history: select all on this page, show the count, and disable buttons that do not apply.
const MAX_COMPARED = 6;

const form = document.querySelector("form[data-chosen]");
if (form) {
  const boxes = [...form.querySelectorAll("input[name=of]")];
  const here = form.querySelector("[data-all-here]");
  const matching = form.querySelector("[data-all-matching]");
  const count = form.querySelector("[data-count]");

  const show = () => {
    const chosen = boxes.filter((box) => box.checked);
    for (const box of boxes) {
      box.closest("[data-row]").classList.toggle("chosen", box.checked || matching.checked);
    }
    here.checked = chosen.length === boxes.length;
    here.indeterminate = chosen.length > 0 && chosen.length < boxes.length;
    const tooMany = chosen.length > MAX_COMPARED ? `; you can compare at most ${MAX_COMPARED}` : "";
    count.textContent = matching.checked ? "All selected" : chosen.length ? `${chosen.length} selected${tooMany}` : "";
    const none = !chosen.length && !matching.checked;
    for (const button of form.querySelectorAll("[data-bulk-action]")) button.disabled = none;
    form.querySelector("[data-compare]").disabled = matching.checked || !chosen.length || chosen.length > MAX_COMPARED;
  };
  here.addEventListener("change", () => {
    for (const box of boxes) box.checked = here.checked;
    show();
  });
  form.addEventListener("change", show);
  // a page restored from the back/forward cache keeps its selection
  addEventListener("pageshow", show);
  show();
}
