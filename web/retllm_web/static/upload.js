// Uploads in parts, with progress and a line for each file as it is taken in. Without this the form is sent whole.
import { Refused, asScript } from "./piece.js";
import { refresh } from "./refresh.js";

const PART_FILES = 20;
const PART_BYTES = 32 * 1024 * 1024;
const ORDER = ["added", "updated", "duplicate", "rejected"];
const SHEETS = /\.(csv|jsonl|ndjson)$/i;

export function uploads(form) {
  const input = form.querySelector("input[type=file]");
  const drop = form.querySelector("[data-drop]");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (input.files.length) send(form, [...input.files]);
  });
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
  }
  for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
  // beside the field a dropped file would take the place of the page
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => { if (!event.target.matches?.("input[type=file]")) event.preventDefault(); });
  }
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (files.length) send(form, files);
  });
}

// Pictures first, sheets of captions last, so that they find their pictures whichever part those were in.
export function parts(files) {
  const made = [];
  const sheets = files.filter((file) => SHEETS.test(file.name));
  for (const file of files.filter((one) => !SHEETS.test(one.name))) {
    const last = made.at(-1);
    const bytes = last?.reduce((sum, one) => sum + one.size, 0) ?? 0;
    if (last && last.length < PART_FILES && bytes + file.size <= PART_BYTES) last.push(file); else made.push([file]);
  }
  if (sheets.length) made.push(sheets);
  return made;
}

async function send(form, files) {
  const button = form.querySelector("button");
  if (button.disabled) return;
  button.disabled = true;
  const leaving = (event) => event.preventDefault();
  addEventListener("beforeunload", leaving);
  const table = document.querySelector("[data-outcomes]");
  table.replaceChildren();
  document.querySelector("#outcomes").hidden = false;
  const progress = progressOf(form, files);
  let sent = 0;
  let hopeless = null;
  for (const part of parts(files)) {
    const bytes = part.reduce((sum, file) => sum + file.size, 0);
    try {
      if (hopeless) throw hopeless;
      const html = await post(form, part, (share) => progress.show(sent + share * bytes));
      table.insertAdjacentHTML("beforeend", html);
      // what needs a person comes first
      table.prepend(...table.querySelectorAll("[data-status=rejected]"));
    } catch (problem) {
      table.prepend(...part.map((file) => failed(file, problem)));
      // logged out, forged or gone: the other parts would fare no better
      if (problem instanceof Refused && [401, 403, 404].includes(problem.status)) hopeless = problem;
    }
    sent += bytes;
    progress.show(sent);
  }
  removeEventListener("beforeunload", leaving);
  button.disabled = false;
  form.reset();
  progress.end(table, files.length);
  document.querySelector("#outcomes-title").focus();
  await after(form, table);
}

function progressOf(form, files) {
  const total = Math.max(1, files.reduce((sum, file) => sum + file.size, 0));
  const holder = form.querySelector("[data-progress]");
  const said = form.querySelector("[data-said]");
  const bar = holder.querySelector("progress");
  holder.hidden = false;
  bar.value = 0;
  said.textContent = `Sending ${files.length === 1 ? "1 file" : `${files.length} files`}…`;
  return {
    show: (bytes) => { bar.value = Math.min(1, bytes / total); },
    end: (table) => {
      holder.hidden = true;
      const counts = {};
      for (const row of table.rows) counts[row.dataset.status] = (counts[row.dataset.status] ?? 0) + 1;
      const summary = ORDER.filter((name) => counts[name]).map((name) => `${counts[name]} ${name}`).join(", ");
      said.textContent = `${summary}.`;
      document.querySelector("[data-summary]").textContent = said.textContent;
    },
  };
}

function post(form, files, onProgress) {
  const body = new FormData();
  body.append("csrf_token", form.elements.csrf_token.value);
  body.append("index", "later");
  for (const file of files) body.append("file", file, file.webkitRelativePath || file.name);
  // fetch tells nothing of what is sent so far
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("POST", form.action);
    for (const [name, value] of Object.entries(asScript)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
    request.addEventListener("load", () => (request.status === 200 ? resolve(request.responseText) : reject(new Refused(request.status, reason(request)))));
    request.addEventListener("error", () => reject(new Error("The connection was lost before the server had it. Try this file again.")));
    request.send(body);
  });
}

function reason(request) {
  if (request.status === 401) return "You are logged out. Load the page again to log in.";
  if (request.status === 413) return "The upload is larger than this server takes.";
  const plain = request.getResponseHeader("Content-Type")?.startsWith("text/plain");
  return plain ? request.responseText : `The server answered ${request.status}. Load the page again and try once more.`;
}

function failed(file, problem) {
  const row = document.createElement("tr");
  row.dataset.status = "rejected";
  const cells = [document.createElement("th"), document.createElement("td"), document.createElement("td")];
  cells[0].scope = "row";
  cells[0].className = "fw-normal any";
  [file.name, "not sent", problem.message].forEach((text, index) => { cells[index].textContent = text; });
  cells[1].className = "text-danger-emphasis";
  row.append(...cells);
  return row;
}

// New items are indexed and shown.
async function after(form, table) {
  const news = [...table.rows].some((row) => ["added", "updated"].includes(row.dataset.status));
  if (!news) return;
  const body = new FormData();
  body.append("csrf_token", form.elements.csrf_token.value);
  await fetch(form.dataset.index, { method: "POST", headers: asScript, body });
  document.querySelector("#index-state").dispatchEvent(new Event("live:wake"));
  await refresh(form.dataset.page);
}
