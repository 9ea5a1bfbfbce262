// Uploads in parts, with progress in bytes and a line for each file as it is taken in. Without this the form is sent
// whole. More files may be chosen or dropped while it runs: they join the end of the row.
import { byName, dropped, isHidden } from "./folders.js";
import { Refused, asScript } from "./piece.js";
import { refresh } from "./refresh.js";

const PART_FILES = 20;
const PART_BYTES = 32 * 1024 * 1024;
// lines that are kept of files that went in; what was refused stays, up to a bound
const KEPT_LINES = 200;
const KEPT_REFUSED = 1000;
const ORDER = ["added", "updated", "duplicate", "rejected"];
const SHEETS = /\.(csv|jsonl|ndjson)$/i;

export function uploads(form) {
  const inputs = [...form.querySelectorAll("input[type=file]")];
  const drop = form.querySelector("[data-drop]");
  const run = new Run(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = inputs.flatMap((input) => [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name })));
    chosen.sort((a, b) => byName(a.name, b.name));
    const files = chosen.filter((one) => !isHidden(one.name));
    if (!chosen.length) { run.say("Choose files or a folder first."); return; }
    for (const input of inputs) input.value = "";
    run.add(files, chosen.length - files.length);
  });
  let inside = 0;
  const over = (by) => { inside = Math.max(0, inside + by); drop.classList.toggle("over", inside > 0); };
  drop.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
  drop.addEventListener("dragover", (event) => event.preventDefault());
  drop.addEventListener("dragleave", () => over(-1));
  // beside the field a dropped file would take the place of the page
  for (const name of ["dragover", "drop"]) {
    document.addEventListener(name, (event) => { if (!event.target.matches?.("input[type=file]")) event.preventDefault(); });
  }
  drop.addEventListener("drop", async (event) => {
    event.preventDefault();
    over(-inside);
    // what was dropped can be asked for during this event only
    const found = dropped(event.dataTransfer);
    run.say("Looking through what was dropped…");
    const { files, hidden, unreadable } = await found;
    if (files.length || unreadable.length) run.add(files, hidden, unreadable);
    else run.say(hidden ? "Only hidden files were dropped, and those are left out." : "Nothing to upload was dropped.");
  });
}

// The next files to send: pictures and texts first, sheets of captions last, so that they find their pictures.
export function nextPart(waiting) {
  const things = waiting.filter((one) => !SHEETS.test(one.name));
  if (!things.length) return waiting.splice(0);
  const part = [];
  let bytes = 0;
  for (const one of things) {
    if (part.length && (part.length >= PART_FILES || bytes + one.file.size > PART_BYTES)) break;
    part.push(one);
    bytes += one.file.size;
  }
  const taken = new Set(part);
  waiting.splice(0, waiting.length, ...waiting.filter((one) => !taken.has(one)));
  return part;
}

const bytesOf = (files) => files.reduce((sum, one) => sum + one.file.size, 0);

class Run {
  constructor(form) {
    this.form = form;
    this.waiting = [];
    this.lost = [];
    this.running = false;
    this.table = document.querySelector("[data-outcomes]");
    this.said = form.querySelector("[data-said]");
    this.holder = form.querySelector("[data-progress]");
    this.bar = form.querySelector("[data-progress] progress");
    this.again = form.querySelector("[data-again]");
    form.querySelector("[data-stop]").addEventListener("click", () => this.stop());
    this.again.addEventListener("click", () => this.add(this.lost.splice(0), 0));
    this.leaving = (event) => event.preventDefault();
  }

  say(text) { this.said.textContent = text; }

  add(files, hidden, unreadable = []) {
    if (!this.running) this.begin();
    this.hidden += hidden;
    this.waiting.push(...files);
    this.total += bytesOf(files);
    this.files += files.length;
    for (const name of unreadable) this.refuse(name, "not read", "Your system did not let the browser read it. Look at its permissions, then try again.");
    this.say(`Sending ${this.files === 1 ? "1 file" : `${this.files.toLocaleString("en")} files`}…`);
    if (!this.running) this.send();
  }

  begin() {
    Object.assign(this, { hidden: 0, total: 0, files: 0, sent: 0, sentFiles: 0, counts: {}, stopped: false, hopeless: null, news: false, began: performance.now() });
    this.lost = [];
    this.table.replaceChildren();
    document.querySelector("[data-summary]").textContent = "";
    document.querySelector("#outcomes").hidden = false;
    this.holder.hidden = false;
    this.again.hidden = true;
    this.bar.value = 0;
  }

  async send() {
    this.running = true;
    addEventListener("beforeunload", this.leaving);
    while (this.waiting.length && !this.stopped) await this.sendPart(nextPart(this.waiting));
    removeEventListener("beforeunload", this.leaving);
    this.running = false;
    this.end();
    await this.after();
  }

  async sendPart(part) {
    const bytes = bytesOf(part);
    try {
      if (this.hopeless) throw this.hopeless;
      this.take(await this.post(part, (share) => this.show(this.sent + share * bytes)));
    } catch (problem) {
      this.lost.push(...part);
      for (const one of part) this.refuse(one.name, "not sent", problem.message);
      // logged out, forged or gone: the other parts would fare no better
      if (problem instanceof Refused && [401, 403, 404].includes(problem.status)) this.hopeless = problem;
    }
    this.sent += bytes;
    this.sentFiles += part.length;
    this.show(this.sent);
  }

  take(html) {
    const holder = document.createElement("tbody");
    holder.innerHTML = html;
    for (const row of [...holder.rows]) {
      this.count(row.dataset.status);
      // what needs a person comes first
      if (row.dataset.status === "rejected") this.table.prepend(row); else this.table.append(row);
    }
    this.trim();
  }

  refuse(name, outcome, reason) {
    const row = document.createElement("tr");
    row.dataset.status = "rejected";
    const cells = [document.createElement("th"), document.createElement("td"), document.createElement("td")];
    cells[0].scope = "row";
    cells[0].className = "fw-normal any";
    [name, outcome, reason].forEach((text, index) => { cells[index].textContent = text; });
    cells[1].className = "text-danger-emphasis";
    row.append(...cells);
    this.table.prepend(row);
    this.count("rejected");
    this.trim();
  }

  count(status) {
    this.counts[status] = (this.counts[status] ?? 0) + 1;
    if (status === "added" || status === "updated") this.news = true;
  }

  trim() {
    const refused = [...this.table.querySelectorAll("tr[data-status=rejected]")];
    const others = [...this.table.querySelectorAll("tr:not([data-status=rejected])")];
    for (const row of [...refused.slice(KEPT_REFUSED), ...others.slice(0, -KEPT_LINES)]) row.remove();
  }

  show(bytes) {
    this.bar.value = Math.min(1, bytes / Math.max(1, this.total));
    const seconds = (performance.now() - this.began) / 1000;
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
    this.holder.hidden = true;
    const left = this.waiting.splice(0);
    this.lost.push(...left);
    const summary = ORDER.filter((name) => this.counts[name]).map((name) => `${this.counts[name].toLocaleString("en")} ${name}`).join(", ");
    const more = [
      left.length ? `Stopped: ${left.length.toLocaleString("en")} more were not sent.` : "",
      this.hidden ? `${this.hidden.toLocaleString("en")} hidden ${this.hidden === 1 ? "file was" : "files were"} left out.` : "",
      Object.values(this.counts).reduce((sum, one) => sum + one, 0) > this.table.rows.length ? "Below are all that were refused, and the last of the others." : "",
    ].filter(Boolean).join(" ");
    this.say([summary && `${summary}.`, more].filter(Boolean).join(" ") || "Nothing was sent.");
    document.querySelector("[data-summary]").textContent = this.said.textContent;
    this.again.hidden = !this.lost.length;
    // whoever works elsewhere on the page meanwhile stays there
    if (document.activeElement === document.body || this.form.contains(document.activeElement)) document.querySelector("#outcomes-title").focus();
  }

  // New items are indexed and shown.
  async after() {
    if (!this.news) return;
    const body = new FormData();
    body.append("csrf_token", this.form.elements.csrf_token.value);
    try {
      await fetch(this.form.dataset.index, { method: "POST", headers: asScript, body });
      document.querySelector("#index-state").dispatchEvent(new Event("live:wake"));
      await refresh(this.form.dataset.page);
    } catch {
      this.say(`${this.said.textContent} The connection was lost before the index job began: load the page again and index.`);
    }
  }

  post(part, onProgress) {
    const body = new FormData();
    body.append("csrf_token", this.form.elements.csrf_token.value);
    body.append("index", "later");
    for (const one of part) body.append("file", one.file, one.name);
    // fetch tells nothing of what is sent so far
    const request = this.request = new XMLHttpRequest();
    return new Promise((resolve, reject) => {
      request.open("POST", this.form.action);
      for (const [name, value] of Object.entries(asScript)) request.setRequestHeader(name, value);
      request.upload.addEventListener("progress", (event) => event.lengthComputable && onProgress(event.loaded / event.total));
      request.addEventListener("load", () => (request.status === 200 ? resolve(request.responseText) : reject(new Refused(request.status, reason(request)))));
      request.addEventListener("error", () => reject(new Error("The connection was lost before the server had it, or the file can't be read. Send it again.")));
      request.addEventListener("abort", () => reject(new Error("You stopped the upload before the server had it.")));
      request.send(body);
    });
  }
}

function reason(request) {
  if (request.status === 401) return "You are logged out. Load the page again to log in.";
  if (request.status === 403) return "You may not upload here any more. Load the page again.";
  if (request.status === 413) return "The upload is larger than this server accepts.";
  const plain = request.getResponseHeader("Content-Type")?.startsWith("text/plain");
  return plain ? request.responseText : `The server answered ${request.status}. Load the page again and try once more.`;
}

function size(bytes) {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(bytes < 1e5 ? 1 : 0)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
