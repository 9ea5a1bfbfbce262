// The search form: choose a picture by file, drop or paste, preview it, and keep it if the server rejects the form.
import { Refused, asScript } from "./piece.js";
import { isForSearch, isOnePicture } from "./query_drop.js";

const UNITS = [["MB", 1e6], ["kB", 1e3], ["bytes", 1]];

function ready(form) {
  form.dataset.ready = "true";
  for (const element of form.querySelectorAll("[data-with-script]")) element.hidden = false;
  const input = fileField(form);
  input.addEventListener("change", () => choose(form, input.files[0]));
  if (input.files.length) show(form, input.files[0]);
  // after going back, the browser restores the fields only now
  addEventListener("pageshow", () => input.files.length && !form.querySelector("[data-chosen] button") && show(form, input.files[0]));
  form.addEventListener("dragover", (event) => over(form, event));
  form.addEventListener("dragleave", (event) => { if (!form.contains(event.relatedTarget)) form.classList.remove("over"); });
  form.addEventListener("drop", (event) => drop(form, event));
  form.addEventListener("submit", (event) => submit(form, event));
  form.querySelector("#scorer")?.addEventListener("change", () => followScorer(form));
  // after going back or reloading, the browser restores the chosen scorer
  addEventListener("pageshow", () => followScorer(form));
  form.querySelector("[data-to-defaults]")?.addEventListener("click", () => toDefaults(form));
  form.querySelector("[data-carry]")?.addEventListener("click", (event) => carry(form, event.currentTarget));
  for (const field of form.querySelectorAll("[data-in-address]")) field.addEventListener("change", () => inAddress(form, field.dataset.inAddress));
  form.addEventListener("reset", () => setTimeout(() => show(form, null)));
  form.addEventListener("invalid", (event) => reveal(form, event), true);
}

const fileField = (form) => form.querySelector("[data-picture] input[type=file]");

// the picture

function over(form, event) {
  if (![...event.dataTransfer.types].includes("Files") || !isForSearch(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  form.classList.add("over");
}

function drop(form, event) {
  form.classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (!files.length) return;
  event.preventDefault();
  if (isOnePicture(event.dataTransfer)) choose(form, files[0]);
  else if (!isForSearch(event)) setMessage(form, "What you dropped is uploaded. To search by a picture, drop it alone.");
  else setMessage(form, files.length > 1 ? "Drop a single picture." : notPicture(files[0]), true);
}

function paste(event) {
  const form = document.activeElement?.closest?.("form[data-search]") ?? document.querySelector("form[data-search]");
  const file = [...(event.clipboardData?.files ?? [])].find((entry) => entry.type.startsWith("image/"));
  // text copied from a document can include a picture; if there is text, ignore the picture
  if (!form || !file || event.clipboardData.getData("text/plain")) return;
  event.preventDefault();
  choose(form, file);
}

function choose(form, file) {
  const input = fileField(form);
  const error = file && check(form, file);
  if (!file || error) input.value = "";
  else if (input.files[0] !== file) {
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
  }
  show(form, error ? null : file);
  setMessage(form, error || (file ? `Selected ${file.name}.` : ""), Boolean(error));
  clearProblem(form, input);
}

function check(form, file) {
  const limit = Number(form.querySelector("[data-picture]").dataset.most);
  // browsers have no type for some accepted formats, such as raw files of cameras; the server looks into the file
  if (file.type && !file.type.startsWith("image/")) return notPicture(file);
  return file.size > limit ? `${file.name} is too large: ${size(file.size)}. The maximum is ${size(limit)} (${limit.toLocaleString("en")} bytes).` : "";
}

const notPicture = (file) => `${file.name} is not a picture. Choose a picture file.`;

function size(bytes) {
  const [unit, factor] = UNITS.find(([, minimum]) => bytes >= minimum) ?? UNITS.at(-1);
  return `${factor > 1 ? (bytes / factor).toFixed(1) : bytes} ${unit}`;
}

function show(form, file) {
  const holder = form.querySelector("[data-chosen]");
  const before = holder.querySelector("img");
  if (before) URL.revokeObjectURL(before.src);
  holder.hidden = !file;
  holder.replaceChildren();
  if (!file) return;
  // a picture that was pasted or dropped is in view
  holder.closest("details")?.setAttribute("open", "");
  const image = new Image();
  image.alt = "Selected picture";
  // browsers cannot show some accepted formats, such as TIFF
  image.addEventListener("error", () => image.remove());
  image.src = URL.createObjectURL(file);
  const name = document.createElement("span");
  name.textContent = `${file.name}, ${size(file.size)}`;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "btn btn-sm btn-outline-secondary";
  button.textContent = "Remove picture";
  button.addEventListener("click", () => {
    choose(form, null);
    setMessage(form, "Picture removed.");
    fileField(form).focus();
  });
  holder.append(image, name, button);
}

function setMessage(form, text, isError = false) {
  const message = form.querySelector("[data-picture-said]");
  message.textContent = text;
  message.classList.toggle("text-danger-emphasis", isError);
}

function clearProblem(form, input) {
  form.querySelector("[data-lost-picture]")?.remove();
  form.querySelector("#picture-problem")?.remove();
  input.classList.remove("is-invalid");
  input.removeAttribute("aria-invalid");
  input.removeAttribute("aria-describedby");
}

// submission; a form without a picture is submitted by the browser

async function submit(form, event) {
  const input = fileField(form);
  if (event.defaultPrevented || !input.files.length) return;
  event.preventDefault();
  if (form.dataset.sent) return;
  form.dataset.sent = "true";
  const message = form.querySelector("[data-search-said]");
  message.textContent = "Sending…";
  try {
    const answer = await fetch(form.action, { method: "POST", headers: asScript, body: new FormData(form) });
    const address = answer.headers.get("Location");
    if (answer.ok && address) { location.assign(address); return; }
    if (answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/html")) throw new Refused(answer.status);
    showRejected(input, await answer.text());
  } catch (problem) {
    message.textContent = reason(problem, await unreadable(input.files[0]));
  }
  delete form.dataset.sent;
}

// Return the name of a picture that the browser cannot read, for example since it was moved; the request fails then too.
const unreadable = (file) => file.slice(0, 1).arrayBuffer().then(() => null, () => file.name);

function reason(problem, name) {
  if (name) return `The browser cannot read ${name}. Choose the picture again.`;
  if (!(problem instanceof Refused)) return "Connection lost. The search was not submitted. Try again.";
  if (problem.status === 401) return "You are logged out. Log in in another tab, then search again.";
  return problem.message;
}

// Replace the page with the server's answer, which shows the errors, and keep the picture in its field.
function showRejected(input, html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const there = fresh.querySelector("[data-picture] input[type=file]");
  document.title = fresh.title;
  document.querySelector("main").replaceWith(document.importNode(fresh.querySelector("main"), true));
  const main = document.querySelector("main");
  if (there) {
    const place = main.querySelector("[data-picture] input[type=file]");
    const problem = place.getAttribute("aria-invalid");
    // keep the picture unless it was rejected itself
    if (!problem) place.files = input.files;
    main.querySelector("[data-lost-picture]")?.remove();
  }
  (main.querySelector("[aria-invalid=true]") ?? main).focus();
}

// the rest of the form

// Give the chosen scorer its own defaults, where the fields have those of the scorer before; the server does the same.
function followScorer(form) {
  const select = form.querySelector("#scorer");
  const chosen = select?.selectedOptions[0];
  if (!chosen || form.elements.shown.value === select.value) return;
  form.elements.shown.value = select.value;
  for (const [name, value] of Object.entries(JSON.parse(chosen.dataset.defaults))) {
    const field = form.elements[name];
    if (!field) continue;
    if (field.value === field.dataset.default) field.value = value;
    field.dataset.default = value;
    const label = [...field.options].find((option) => option.value === value)?.text ?? value;
    const hint = form.querySelector(`#${name}-hint`);
    hint.textContent = hint.textContent.replace(/Default: .*$/s, `Default: ${label}`);
  }
  const note = form.querySelector("p[data-on-server]");
  if (note) note.hidden = chosen.dataset.onServer === undefined;
}

function toDefaults(form) {
  for (const field of form.querySelectorAll("[data-default]")) {
    if (field.type === "checkbox") field.checked = field.dataset.default === "1";
    else field.value = field.dataset.default;
  }
  followScorer(form);
  form.elements.filter.dispatchEvent(new Event("change", { bubbles: true }));
  form.querySelector("[data-search-said]").textContent = "Settings reset to defaults.";
}

// Show an invalid field that is collapsed; reset one that is hidden because it does not apply, and submit again.
function reveal(form, event) {
  const field = event.target;
  for (let fold = field.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  if (field.offsetParent !== null || field.dataset.default === undefined) return;
  event.preventDefault();
  field.value = field.dataset.default;
  // after the browser has finished validating the form
  setTimeout(() => form.matches(":valid") && form.requestSubmit());
}

function carry(form, link) {
  const address = new URL(link.href);
  for (const name of ["text", "k", "scorer"]) if (form.elements[name]?.value) address.searchParams.set(name, form.elements[name].value);
  link.href = address;
}

function inAddress(form, name) {
  const address = new URL(location.href);
  address.searchParams.delete(name);
  for (const value of new FormData(form).getAll(name)) address.searchParams.append(name, value);
  history.replaceState(null, "", address);
}

function prepare() {
  document.querySelectorAll("form[data-search]:not([data-ready])").forEach(ready);
}

document.addEventListener("paste", paste);
// a file dropped outside the form would replace the page
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => {
    const files = [...(event.dataTransfer?.types ?? [])].includes("Files");
    if (files && !event.target.matches?.("input[type=file]")) event.preventDefault();
  });
}
// a form can appear later, with the first item of a collection
new MutationObserver(prepare).observe(document.body, { childList: true, subtree: true });
prepare();
