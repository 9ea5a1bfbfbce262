// The form to search: a picture by file, drop or paste, seen before it is sent and kept if the form is refused.
import { Refused, asScript } from "./piece.js";

const UNITS = [["MB", 1e6], ["kB", 1e3], ["bytes", 1]];

function ready(form) {
  form.dataset.ready = "true";
  for (const element of form.querySelectorAll("[data-with-script]")) element.hidden = false;
  const input = fileField(form);
  input.addEventListener("change", () => take(form, input.files[0]));
  if (input.files.length) show(form, input.files[0]);
  // a browser that goes back fills the fields in only now
  addEventListener("pageshow", () => input.files.length && !form.querySelector("[data-chosen] button") && show(form, input.files[0]));
  form.addEventListener("dragover", (event) => over(form, event));
  form.addEventListener("dragleave", (event) => { if (!form.contains(event.relatedTarget)) form.classList.remove("over"); });
  form.addEventListener("drop", (event) => drop(form, event));
  form.addEventListener("submit", (event) => submit(form, event));
  form.querySelector("[data-to-defaults]")?.addEventListener("click", () => toDefaults(form));
  form.querySelector("[data-carry]")?.addEventListener("click", (event) => carry(form, event.currentTarget));
  form.querySelector("[data-in-address]")?.addEventListener("change", (event) => inAddress(event.currentTarget));
  form.addEventListener("reset", () => setTimeout(() => show(form, null)));
  form.addEventListener("invalid", (event) => unfold(form, event), true);
}

const fileField = (form) => form.querySelector("[data-picture] input[type=file]");

// the picture

function over(form, event) {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = "copy";
  form.classList.add("over");
}

function drop(form, event) {
  form.classList.remove("over");
  const files = [...event.dataTransfer.files];
  if (!files.length) return;
  event.preventDefault();
  take(form, files.find((file) => file.type.startsWith("image/")) ?? files[0]);
}

function paste(event) {
  const form = document.activeElement?.closest?.("form[data-search]") ?? document.querySelector("form[data-search]");
  const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  // a text that was copied from a document brings its picture along; among words the words are meant
  if (!form || !file || event.clipboardData.getData("text/plain")) return;
  event.preventDefault();
  take(form, file);
}

function take(form, file) {
  const input = fileField(form);
  const wrong = file && refusal(form, file);
  if (!file || wrong) input.value = "";
  else if (input.files[0] !== file) {
    const held = new DataTransfer();
    held.items.add(file);
    input.files = held.files;
  }
  show(form, wrong ? null : file);
  say(form, wrong || (file ? `${file.name} is chosen.` : ""), Boolean(wrong));
  clearProblem(form, input);
}

function refusal(form, file) {
  const most = Number(form.querySelector("[data-picture]").dataset.most);
  if (!file.type.startsWith("image/")) return `${file.name} is no picture. Choose a JPEG, PNG, WebP, GIF or TIFF file.`;
  return file.size > most ? `${file.name} has ${size(file.size)}; a picture may have ${size(most)}. Choose a smaller one.` : "";
}

function size(bytes) {
  const [unit, many] = UNITS.find(([, least]) => bytes >= least) ?? UNITS.at(-1);
  return `${many > 1 ? (bytes / many).toFixed(1) : bytes} ${unit}`;
}

function show(form, file) {
  const holder = form.querySelector("[data-chosen]");
  const before = holder.querySelector("img");
  if (before) URL.revokeObjectURL(before.src);
  holder.hidden = !file;
  holder.replaceChildren();
  if (!file) return;
  const image = new Image();
  image.alt = "The picture that you chose";
  // TIFF and the like are searched with, though the browser can't show them
  image.addEventListener("error", () => image.remove());
  image.src = URL.createObjectURL(file);
  const name = document.createElement("span");
  name.textContent = `${file.name}, ${size(file.size)}`;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "btn btn-sm btn-outline-secondary";
  button.textContent = "Remove the picture";
  button.addEventListener("click", () => {
    take(form, null);
    say(form, "The picture is removed.");
    fileField(form).focus();
  });
  holder.append(image, name, button);
}

function say(form, words, wrong = false) {
  const said = form.querySelector("[data-picture-said]");
  said.textContent = words;
  said.classList.toggle("text-danger-emphasis", wrong);
}

function clearProblem(form, input) {
  form.querySelector("[data-lost-picture]")?.remove();
  form.querySelector("#picture-problem")?.remove();
  input.classList.remove("is-invalid");
  input.removeAttribute("aria-invalid");
  input.removeAttribute("aria-describedby");
}

// sending; a form without a picture loses nothing on its way and goes by itself

async function submit(form, event) {
  const input = fileField(form);
  if (event.defaultPrevented || !input.files.length) return;
  event.preventDefault();
  if (form.dataset.sent) return;
  form.dataset.sent = "true";
  const said = form.querySelector("[data-search-said]");
  said.textContent = "Sending…";
  try {
    const answer = await fetch(form.action, { method: "POST", headers: asScript, body: new FormData(form) });
    const address = answer.headers.get("Location");
    if (answer.ok && address) { location.assign(address); return; }
    if (answer.ok || !answer.headers.get("Content-Type")?.startsWith("text/html")) throw new Refused(answer.status);
    refused(input, await answer.text());
  } catch (problem) {
    said.textContent = reason(problem);
  }
  delete form.dataset.sent;
}

function reason(problem) {
  if (!(problem instanceof Refused)) return "The connection was lost. Nothing was submitted; search again.";
  if (problem.status === 401) return "You are logged out. Log in in another tab, then search again.";
  return problem.message;
}

// The page that says what is wrong takes the place of this one, with the picture in its field.
function refused(input, html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  const there = fresh.querySelector("[data-picture] input[type=file]");
  document.title = fresh.title;
  document.querySelector("main").replaceWith(document.importNode(fresh.querySelector("main"), true));
  const main = document.querySelector("main");
  if (there) {
    const place = main.querySelector("[data-picture] input[type=file]");
    const problem = place.getAttribute("aria-invalid");
    // a picture that was itself refused goes; any other is still meant
    if (!problem) place.files = input.files;
    main.querySelector("[data-lost-picture]")?.remove();
  }
  (main.querySelector("[aria-invalid=true]") ?? main).focus();
}

// the rest of the form

function toDefaults(form) {
  for (const field of form.querySelectorAll("[data-default]")) {
    if (field.type === "checkbox") field.checked = field.dataset.default === "1";
    else field.value = field.dataset.default;
  }
  form.querySelector("[data-search-said]").textContent = "The settings are back at their defaults.";
}

// A browser can't point at a field that is folded away; one without meaning for the other choices needs none.
function unfold(form, event) {
  const field = event.target;
  field.closest("details")?.setAttribute("open", "");
  if (field.offsetParent !== null || field.dataset.default === undefined) return;
  event.preventDefault();
  field.value = field.dataset.default;
  // not while the form is still looking for mistakes
  setTimeout(() => form.matches(":valid") && form.requestSubmit());
}

function carry(form, link) {
  const address = new URL(link.href);
  for (const name of ["text", "k"]) if (form.elements[name].value) address.searchParams.set(name, form.elements[name].value);
  link.href = address;
}

function inAddress(field) {
  const address = new URL(location.href);
  address.searchParams.set(field.name, field.value);
  history.replaceState(null, "", address);
}

function prepare() {
  document.querySelectorAll("form[data-search]:not([data-ready])").forEach(ready);
}

document.addEventListener("paste", paste);
// beside the form a dropped file would take the place of the page
for (const name of ["dragover", "drop"]) {
  document.addEventListener(name, (event) => {
    const files = [...(event.dataTransfer?.types ?? [])].includes("Files");
    if (files && !event.target.matches?.("input[type=file]")) event.preventDefault();
  });
}
// a form may come later, with a collection's first item
new MutationObserver(prepare).observe(document.body, { childList: true, subtree: true });
prepare();
