// The history's selection: all on this page, a count, and buttons that say why they can't be used.
const MOST_COMPARED = 6;

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
    const many = chosen.length > MOST_COMPARED ? `; at most ${MOST_COMPARED} can be compared` : "";
    count.textContent = matching.checked ? "all selected" : chosen.length ? `${chosen.length} selected${many}` : "";
    const none = !chosen.length && !matching.checked;
    for (const button of form.querySelectorAll("[data-deed]")) button.disabled = none;
    form.querySelector("[data-compare]").disabled = matching.checked || !chosen.length || chosen.length > MOST_COMPARED;
  };
  here.addEventListener("change", () => {
    for (const box of boxes) box.checked = here.checked;
    show();
  });
  form.addEventListener("change", show);
  // a page that comes back out of the browser's memory keeps its ticks
  addEventListener("pageshow", show);
  show();
}
