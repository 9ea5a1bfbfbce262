// Upload files in batches, with progress in bytes and a result per file. Without JavaScript the form is sent in one
// request. Files that are chosen or dropped during an upload are appended to it.
import { chosen, describes, dropped } from "./folders.js";
import { Refused, asScript } from "./piece.js";
import { refresh } from "./refresh.js";

const BATCH_FILES = 20;
const BATCH_BYTES = 32 * 1024 * 1024;
// maximum table rows of accepted files and of rejected files
const MAX_ACCEPTED_ROWS = 200;
const MAX_REJECTED_ROWS = 1000;
const ORDER = ["added", "updated", "duplicate", "ignored", "rejected"];

export function uploads(form) {
  const inputs = [...form.querySelectorAll("input[type=file]")];
  const drop = form.querySelector("[data-drop]");
  const upload = new Upload(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const found = chosen(inputs.flatMap((input) => [...input.files]));
    if (!inputs.some((input) => input.files.length)) { upload.showMessage("Choose files or a folder first."); return; }
    for (const input of inputs) input.value = "";
    upload.add(found);
  });
  let inside = 0;
  const over = (by) => { inside = Math.max(0, inside + by); drop.classList.toggle("over", inside > 0); };
  drop.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("dragleave", () => over(-1));
  // a file dropped outside the field would replace the page
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => { if (!event.target.matches?.("input[type=file]")) event.preventDefault(); });
  }
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    over(-inside);
    // the dropped entries are only readable during this event
    const found = dropped(event.dataTransfer);
    upload.showMessage("Reading dropped files…");
    const { files, clutter, unreadable } = await found;
    if (files.length || unreadable.length || clutter.places.size) upload.add({ files, clutter, unreadable });
    else upload.showMessage("No files were dropped, or the folder is empty.");
  });
}

// Remove and return the next files to send; those that say something of pictures come after all pictures.
export function nextBatch(waiting) {
  const pictures = waiting.filter((entry) => !describes(entry.name));
  const items = pictures.length ? pictures : waiting;
  const batch = [];
  let bytes = 0;
  for (const entry of items) {
    if (batch.length && (batch.length >= BATCH_FILES || bytes + entry.file.size > BATCH_BYTES)) break;
    batch.push(entry);
    bytes += entry.file.size;
  }
  const taken = new Set(batch);
  waiting.splice(0, waiting.length, ...waiting.filter((entry) => !taken.has(entry)));
  return batch;
}

const bytesOf = (files) => files.reduce((sum, entry) => sum + entry.file.size, 0);

class Upload {
  constructor(form) {
    this.form = form;
    this.waiting = [];
    this.failed = [];
    this.running = false;
    this.table = document.querySelector("[data-outcomes]");
    this.message = form.querySelector("[data-said]");
    this.progress = form.querySelector("[data-progress]");
    this.bar = form.querySelector("[data-progress] progress");
    this.retryButton = form.querySelector("[data-again]");
    form.querySelector("[data-stop]").addEventListener("click", () => this.stop());
    this.retryButton.addEventListener("click", () => this.add({ files: this.failed.splice(0) }));
    this.onBeforeUnload = (event) => event.preventDefault();
  }

  showMessage(text) { this.message.textContent = text; }

  add({ files, clutter, unreadable = [] }) {
    if (!this.running) this.start();
    this.waiting.push(...files);
    this.total += bytesOf(files);
    this.files += files.length;
    for (const name of unreadable) this.reject(name, "not read", "The browser cannot read this file. Check its permissions and try again.");
    for (const { name, remark } of clutter?.outcomes() ?? []) this.row("ignored", name, "ignored", remark);
    this.showMessage(`Sending ${this.files === 1 ? "1 file" : `${this.files.toLocaleString("en")} files`}…`);
    if (!this.running) this.send();
  }

  start() {
    Object.assign(this, { total: 0, files: 0, sent: 0, sentFiles: 0, counts: {}, stopped: false, fatalError: null, changed: false, started: performance.now() });
    this.failed = [];
    this.table.replaceChildren();
    document.querySelector("[data-summary]").textContent = "";
    document.querySelector("#outcomes").hidden = false;
    this.progress.hidden = false;
    this.retryButton.hidden = true;
    this.bar.value = 0;
  }

  async send() {
    this.running = true;
    addEventListener("beforeunload", this.onBeforeUnload);
    while (this.waiting.length && !this.stopped) await this.sendBatch(nextBatch(this.waiting));
    removeEventListener("beforeunload", this.onBeforeUnload);
    this.running = false;
    this.end();
    await this.indexNew();
  }

  async sendBatch(batch) {
    const bytes = bytesOf(batch);
    try {
      if (this.fatalError) throw this.fatalError;
      this.addRows(await this.post(batch, (share) => this.show(this.sent + share * bytes)));
    } catch (problem) {
      this.failed.push(...batch);
      for (const entry of batch) this.reject(entry.name, "not sent", problem.message);
      // logged out, forbidden or deleted: the other batches would fail too
      if (problem instanceof Refused && [401, 403, 404].includes(problem.status)) this.fatalError = problem;
    }
    this.sent += bytes;
    this.sentFiles += batch.length;
    this.show(this.sent);
  }

  addRows(html) {
    const holder = document.createElement("tbody");
    holder.innerHTML = html;
    for (const row of [...holder.rows]) {
      this.count(row.dataset.status);
      // rejected files first
      if (row.dataset.status === "rejected") this.table.prepend(row); else this.table.append(row);
    }
    this.trim();
  }

  reject(name, outcome, reason) { this.row("rejected", name, outcome, reason); }

  row(status, name, outcome, reason) {
    const row = document.createElement("tr");
    row.dataset.status = status;
    const cells = [document.createElement("th"), document.createElement("td"), document.createElement("td")];
    cells[0].scope = "row";
    cells[0].className = "fw-normal any";
    [name, outcome, reason].forEach((text, index) => { cells[index].textContent = text; });
    cells[1].className = status === "rejected" ? "text-danger-emphasis" : "text-secondary-emphasis";
    row.append(...cells);
    if (status === "rejected") this.table.prepend(row); else this.table.append(row);
    this.count(status);
    this.trim();
  }

  count(status) {
    this.counts[status] = (this.counts[status] ?? 0) + 1;
    if (status === "added" || status === "updated") this.changed = true;
  }

  trim() {
    const rejected = [...this.table.querySelectorAll("tr[data-status=rejected]")];
    const others = [...this.table.querySelectorAll("tr:not([data-status=rejected])")];
    for (const row of [...rejected.slice(MAX_REJECTED_ROWS), ...others.slice(0, -MAX_ACCEPTED_ROWS)]) row.remove();
  }

  show(bytes) {
    this.bar.value = Math.min(1, bytes / Math.max(1, this.total));
    const seconds = (performance.now() - this.started) / 1000;
    const left = bytes > 0 && seconds > 3 ? ((this.total - bytes) / bytes) * seconds : null;
    const files = `${this.sentFiles.toLocaleString("en")} of ${this.files.toLocaleString("en")} files`;
    const time = left === null || left < 1 ? "" : `, about ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`} left`;
    this.form.querySelector("[data-sent]").textContent = `${files}, ${size(bytes)} of ${size(this.total)}${time}`;
  }

  stop() {
    this.stopped = true;
    this.request?.abort();
  }

  end() {
    this.progress.hidden = true;
    const left = this.waiting.splice(0);
    this.failed.push(...left);
    const summary = ORDER.filter((name) => this.counts[name]).map((name) => `${this.counts[name].toLocaleString("en")} ${name}`).join(", ");
    const notes = [
      left.length ? `Stopped: ${left.length.toLocaleString("en")} ${left.length === 1 ? "file was" : "files were"} not sent.` : "",
      Object.values(this.counts).reduce((sum, count) => sum + count, 0) > this.table.rows.length ? "The table shows the rejected files and the latest of the others." : "",
    ].filter(Boolean).join(" ");
    this.showMessage([summary && `${summary}.`, notes].filter(Boolean).join(" ") || "No files were sent.");
    document.querySelector("[data-summary]").textContent = this.message.textContent;
    this.retryButton.hidden = !this.failed.length;
    // keep the focus if the user works elsewhere on the page
    if (document.activeElement === document.body || this.form.contains(document.activeElement)) document.querySelector("#outcomes-title").focus();
  }

  // Index and show the new items.
  async indexNew() {
    if (!this.changed) return;
    const body = new FormData();
    body.append("csrf_token", this.form.elements.csrf_token.value);
    try {
      await fetch(this.form.dataset.index, { method: "POST", headers: asScript, body });
      document.querySelector("#index-state").dispatchEvent(new Event("live:wake"));
      await refresh(this.form.dataset.page);
    } catch {
      this.showMessage(`${this.message.textContent} Connection lost before the index job was started. Reload the page and start it.`);
    }
  }

  post(batch, onProgress) {
    const body = new FormData();
    body.append("csrf_token", this.form.elements.csrf_token.value);
    body.append("index", "later");
    if (this.form.elements.texts.checked) body.append("texts", "true");
    for (const entry of batch) body.append("file", entry.file, entry.name);
    // fetch reports no upload progress
    const request = this.request = new XMLHttpRequest();
    return new Promise((resolve, reject) => {
      request.open("POST", this.form.action);
      for (const [name, value] of Object.entries(asScript)) request.setRequestHeader(name, value);
      request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
      request.addEventListener("load", () => (request.status === 200 ? resolve(request.responseText) : reject(new Refused(request.status, reason(request)))));
      request.addEventListener("error", () => reject(new Error("Connection lost during the upload, or the file cannot be read. Try again.")));
      request.addEventListener("abort", () => reject(new Error("You stopped the upload before this file was sent.")));
      request.send(body);
    });
  }
}

function reason(request) {
  if (request.status === 401) return "You are logged out. Reload the page to log in.";
  if (request.status === 403) return "You can no longer upload here. Reload the page.";
  if (request.status === 413) return "The upload exceeds the maximum size of this server.";
  const plain = request.getResponseHeader("Content-Type")?.startsWith("text/plain");
  return plain ? request.responseText : `The server returned status ${request.status}. Reload the page and try again.`;
}

function size(bytes) {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(bytes < 1e5 ? 1 : 0)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
