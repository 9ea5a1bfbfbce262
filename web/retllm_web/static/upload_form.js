// The form of an upload: files that are chosen in it, and files that are dropped anywhere on its page.
import { chosen, dropped } from "./folders.js";
import { isForSearch } from "./query_drop.js";
import { Upload } from "./upload.js";

export function uploads(form) {
  const inputs = [...form.querySelectorAll("input[type=file]")];
  const upload = new Upload(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (!inputs.some((input) => input.files.length)) { upload.showMessage("Choose files or a folder first."); return; }
    const found = chosen(inputs.flatMap((input) => [...input.files]));
    for (const input of inputs) input.value = "";
    upload.add(found);
  });
  followDrags(form.querySelector("[data-drop]"), (transfer) => take(upload, transfer));
}

async function take(upload, transfer) {
  // the dropped entries are only readable during the event
  const found = dropped(transfer);
  upload.showMessage("Reading dropped files…");
  const { files, unsent } = await found;
  if (files.length || unsent.length) upload.add({ files, unsent });
  else upload.showMessage("No files were dropped.");
}

function followDrags(area, onDrop) {
  // whether something of this page is dragged: browsers offer its pictures as files
  let own = false;
  const show = (over) => area.classList.toggle("over", over);
  // Return whether an event of a drag is for the upload. Text may be dropped into fields.
  function claim(event) {
    if (![...event.dataTransfer?.types ?? []].includes("Files")) return false;
    const claimed = !own && !isForSearch(event);
    // otherwise a file would replace the page; the field of a query picture takes one itself
    if (claimed || !event.target.matches?.("input[type=file]")) event.preventDefault();
    return claimed;
  }
  document.addEventListener("dragstart", () => { own = true; });
  document.addEventListener("dragend", () => { own = false; });
  document.addEventListener("dragover", (event) => show(claim(event)));
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) show(false); });
  document.addEventListener("drop", (event) => {
    show(false);
    if (claim(event)) onDrop(event.dataTransfer);
  });
}
