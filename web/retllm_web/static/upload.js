// Upload files as one job, in requests of some files each, and large files in parts. Files that are chosen or dropped
// meanwhile join it, unless they may correct what it says of pictures: those are sent afterwards, as a job of their own.
// Without JavaScript the form is sent in one request.
// After an interruption the server says which files it has, so that none is sent twice.
import { describes, unreadable } from "./folders.js";
import { tellApart } from "./names.js";
import { mayContradict, nextBatch } from "./upload_batches.js";
import { isReadable } from "./upload_hashes.js";
import { Progress, arrivedText, bytesOf, filesText, linesOf, sendingText } from "./upload_progress.js";
import { Lost, Refused, begin, closeByBeacon, isProcessed, offsetOf, post, send, sendPart, wellFormed } from "./upload_requests.js";

const MAX_NOTED = 500;
const MAX_NAMED = 1000;
const MAX_REASON = 1000;
const LEAVING_MS = 20000;
const STOPPED = "the upload was stopped; choose the same files again to send the rest.";
const LEFT = "the page was left; choose the same files again to send the rest.";
const FIRST_PAUSE_S = 1;
const LONGEST_PAUSE_S = 30;
const PROCESSED_MS = 1000;
// logged out, forbidden, deleted, closed or a full storage: other files would fail too
const FINAL = [401, 403, 404, 409, 507];

class Stopped extends Error {}

export class Upload {
  constructor(form) {
    this.form = form;
    this.waiting = [];
    // files that did not arrive, with a reason if it is theirs alone; they can be sent again
    this.unsent = [];
    // drops that are sent after this upload, each with one of its own
    this.following = [];
    // what may describe pictures is sent again with the rest, since some of these had not come
    this.describing = [];
    // the upload before this one, whose pictures this one may caption
    this.former = null;
    // closes an upload that was stopped without a connection
    this.closing = null;
    this.running = false;
    this.outcomes = document.querySelector("#outcomes");
    this.message = form.querySelector("[data-said]");
    this.list = form.querySelector("[data-unsent]");
    this.progress = new Progress(form);
    this.againButton = form.querySelector("[data-again]");
    this.nowButton = form.querySelector("[data-now]");
    this.stopButton = form.querySelector("[data-stop]");
    this.stopButton.addEventListener("click", () => this.stop());
    this.nowButton.addEventListener("click", () => this.resume?.());
    this.againButton.addEventListener("click", () => this.sendRest());
    addEventListener("online", () => { this.resume?.(); if (!this.running) this.closeFormer().catch(() => {}); });
    // what arrived is processed at once, and not only when the server misses the browser
    addEventListener("pagehide", () => { if (this.running) { closeByBeacon(this.addresses, this.token, because(LEFT)); this.stop(LEFT); } });
    this.onStarted = (request) => { this.request = request; };
    this.onBeforeUnload = (event) => event.preventDefault();
  }

  // Files with more bytes are sent in parts of this size.
  get large() { return Number(this.form.dataset.large); }

  get token() { return this.form.elements.csrf_token.value; }

  // Hide a button that was pressed; the focus goes to the one that is left.
  hide(button) {
    if (document.activeElement === button) this.stopButton.focus();
    button.hidden = true;
  }

  showMessage(text) { this.message.textContent = text; }

  add({ files, unsent = [] }) {
    if (this.running && mayContradict(files, this.describing)) {
      this.following.push({ files, unsent });
      this.showSending();
      return;
    }
    if (!this.running) this.reset();
    this.take({ files, unsent });
    // what fails is sent again before the next files
    if (this.running && this.addresses) this.nameAll().catch(() => {});
    this.showSending();
    this.show(this.sentBytes);
    if (!this.running) this.run();
  }

  take({ files, unsent }) {
    this.waiting.push(...files);
    this.notes.push(...unsent);
    this.describing.push(...files.filter((entry) => describes(entry.name)));
    this.bytes += bytesOf(files);
    this.together.push(files);
    for (let n = 0; n < files.length; n += MAX_NAMED) {
      this.unnamed.push({ first: this.files + n, entries: files.slice(n, n + MAX_NAMED) });
    }
    this.files += files.length;
  }

  sendRest() {
    const rest = this.unsent.map(({ entry }) => entry);
    const described = rest.some((entry) => !describes(entry.name));
    // a corrected one goes before the one of its name
    const names = new Set(rest.map((entry) => entry.name));
    const again = described ? this.describing.filter((entry) => !names.has(entry.name)) : [];
    this.describing = [];
    this.add({ files: [...again, ...rest] });
  }

  async closeFormer() {
    await this.closing?.().catch((error) => { if (error instanceof Lost) throw error; });
    this.closing = null;
  }

  showSending() {
    this.showMessage(sendingText(this.files, this.following.reduce((sum, { files }) => sum + files.length, 0)));
  }

  reset() {
    // files whose names may look the same; names, to be known by the server before the bytes; outcomes of what is never
    // sent, to be noted by it
    this.former = this.addresses?.state ?? this.former;
    Object.assign(this, { addresses: null, pending: [], together: [], unnamed: [], notes: [] });
    // where large files go, and the offset of their next part
    Object.assign(this, { arrivals: new Map(), largeFiles: new Map() });
    Object.assign(this, { bytes: 0, files: 0, sentBytes: 0, arrived: 0, unread: 0, stopped: null, pause: FIRST_PAUSE_S });
    this.whenStopped = new Promise((resolve) => { this.signalStop = resolve; }).then(() => { throw new Stopped(); });
    // handled where something is awaited
    this.whenStopped.catch(() => {});
    this.unsent = [];
    this.list.hidden = true;
    this.hide(this.againButton);
    this.progress.start();
  }

  async run() {
    this.running = true;
    addEventListener("beforeunload", this.onBeforeUnload);
    let problem = null;
    try {
      await this.persist(() => this.closeFormer());
      await this.open();
      do {
        await this.persist(() => this.nameAll());
        await this.sendBatch(nextBatch(this.waiting, this.large));
      } while (this.waiting.length || this.notes.length || !await this.mayClose());
    } catch (error) {
      problem = error;
    }
    const text = await this.close(problem);
    removeEventListener("beforeunload", this.onBeforeUnload);
    this.running = false;
    this.end(text);
    // dropped while the upload was being closed, or to be sent after it
    if (this.waiting.length) this.add({ files: this.waiting.splice(0) });
    else if (this.following.length) {
      const before = this.unsent;
      this.add(this.following.shift());
      this.unsent.push(...before);
    }
  }

  // Captions are applied when an upload is closed: wait until the pictures of the one before are there.
  async mayClose() {
    if (!this.former || !this.describing.length || await this.persist(() => isProcessed(this.former))) return true;
    this.showMessage(`${filesText(this.files)} arrived. Captions are applied when your upload before this one is processed.`);
    await Promise.race([new Promise((resolve) => { setTimeout(resolve, PROCESSED_MS); }), this.whenStopped]);
    return false;
  }

  // Do something again until the connection holds.
  async persist(work) {
    for (;;) {
      if (this.stopped) throw new Stopped();
      try {
        const result = await Promise.race([work(), this.whenStopped]);
        this.pause = FIRST_PAUSE_S;
        return result;
      } catch (error) {
        if (this.stopped) throw new Stopped();
        if (!(error instanceof Lost)) throw error;
        await this.wait(error);
      }
    }
  }

  async wait({ message }) {
    this.showMessage(`${message} Retrying in ${this.pause} s.`);
    this.nowButton.hidden = false;
    this.progress.forget();
    this.show(this.sentBytes);
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, this.pause * 1000);
      this.resume = () => { clearTimeout(timer); resolve(); };
    });
    this.resume = null;
    // nothing could be sent meanwhile
    this.progress.forget();
    this.hide(this.nowButton);
    this.pause = Math.min(2 * this.pause, LONGEST_PAUSE_S);
    if (!this.stopped) this.showSending();
  }

  async open() {
    const body = new FormData();
    body.append("csrf_token", this.token);
    body.append("files", this.files);
    if (this.form.elements.texts.checked) body.append("texts", "true");
    const key = [...crypto.getRandomValues(new Uint32Array(4))].join("-");
    this.addresses = await this.persist(() => post(this.form.dataset.open, body, { "Idempotency-Key": key }));
    this.outcomes.hidden = false;
    for (const live of [this.outcomes, document.querySelector("#index-state")]) live.dispatchEvent(new Event("live:wake"));
  }

  // Tell the server which files are to come, so that it lists those that never do, however this ends.
  async nameAll() {
    for (const files of [...this.together]) {
      await tellApart(this.form.dataset.names, this.token, files);
      this.together = this.together.filter((one) => one !== files);
    }
    for (const part of [...this.unnamed]) {
      const { first, entries } = part;
      await this.ask(this.addresses.expected, { first, names: entries.map((entry) => wellFormed(entry.name)) });
      this.unnamed = this.unnamed.filter((one) => one !== part);
    }
  }

  async sendBatch(batch) {
    this.pending = batch;
    try {
      await this.persist(() => this.sendPending());
    } catch (error) {
      if (!(error instanceof Refused) || FINAL.includes(error.status)) throw error;
      for (const entry of this.pending) this.notes.push({ name: entry.name, status: "rejected", reason: error.message });
      this.giveUp(this.pending, error.message);
    }
    this.pending = [];
  }

  async sendPending() {
    // also after an attempt that failed, which may be why
    const readable = await this.unlessStopped(Promise.all(this.pending.map((entry) => isReadable(entry, this.onReading(entry)))));
    const gone = this.pending.filter((_, n) => !readable[n]);
    this.notes.push(...gone.map((entry) => unreadable(entry.name)));
    this.unread += gone.length;
    this.pending = this.pending.filter((_, n) => readable[n]);
    await this.sendNotes((asked) => this.unlessStopped(asked));
    // a file whose content is unknown is only compared after an attempt to send it
    const asked = this.pending.filter((entry) => entry.sha256 || entry.slices || entry.tried);
    if (asked.length) {
      const { needs } = await this.unlessStopped(this.ask(this.addresses.known, { files: asked.map((entry) => this.offer(entry)) }));
      this.arrive(asked.filter((_, n) => needs[n] === "known"));
    }
    const files = [...this.pending];
    if (!files.length) return;
    for (const entry of files) entry.tried = true;
    if (files[0].file.size > this.large) await this.sendLarge(files[0]);
    else await send(this.addresses.files, this.token, files, (share) => this.show(this.sentBytes + share * bytesOf(files)), this.onStarted);
    this.arrive(files);
  }

  // Return what shows how much of a large file was read, until the upload is stopped.
  onReading({ file, name }) {
    const run = this.whenStopped;
    return (bytes) => {
      this.endIfStopped(run);
      this.progress.showReading(name, bytes, file.size);
    };
  }

  async sendNotes(awaited) {
    while (this.notes.length) {
      const notes = this.notes.slice(0, MAX_NOTED);
      await awaited(this.ask(this.addresses.unsent, { files: notes.map((note) => ({ ...note, name: wellFormed(note.name) })) }));
      this.notes.splice(0, notes.length);
    }
  }

  // Tell the server in a bounded time what it does not know yet of files that are not sent.
  async sayRest() {
    const late = new Promise((resolve) => { setTimeout(resolve, LEAVING_MS); });
    // the upload may be gone, or closed
    await Promise.race([this.nameAll().then(() => this.sendNotes((asked) => asked)), late]).catch(() => {});
  }

  // Send a file in parts (tus 1.0.0), on from where the server says after an error.
  async sendLarge(entry) {
    this.show(this.sentBytes);
    if (!this.largeFiles.has(entry)) {
      this.largeFiles.set(entry, await this.unlessStopped(begin(this.addresses.large, this.token, wellFormed(entry.name), entry)));
    }
    const large = this.largeFiles.get(entry);
    for (;;) {
      const offset = large.offset ?? await this.unlessStopped(offsetOf(large.address));
      if (offset >= entry.file.size) return;
      large.offset = null;
      const part = entry.file.slice(offset, offset + this.large);
      const onProgress = (share) => this.show(this.sentBytes + offset + share * part.size);
      large.offset = await this.unlessStopped(sendPart(large.address, this.token, part, offset, onProgress, this.onStarted));
    }
  }

  async unlessStopped(promise) {
    const run = this.whenStopped;
    const value = await promise;
    this.endIfStopped(run);
    return value;
  }

  // After Stop, the rest may be on its way already.
  endIfStopped(run) { if (this.stopped || run !== this.whenStopped) throw new Stopped(); }

  ask(address, body) {
    return post(address, JSON.stringify(body), { "Content-Type": "application/json", "X-CSRFToken": this.token });
  }

  offer(entry) {
    return { name: wellFormed(entry.name), size: entry.file.size, sha256: entry.sha256 ?? null, slices: entry.slices ?? null, earlier: this.arrivals.get(keyOf(entry)) ?? 0 };
  }

  arrive(entries) {
    for (const entry of entries) this.arrivals.set(keyOf(entry), (this.arrivals.get(keyOf(entry)) ?? 0) + 1);
    this.arrived += entries.length;
    this.sentBytes += bytesOf(entries);
    this.pending = this.pending.filter((entry) => !entries.includes(entry));
    this.show(this.sentBytes);
  }

  giveUp(entries, reason) {
    this.unsent.push(...entries.map((entry) => ({ entry, reason })));
    this.bytes -= bytesOf(entries);
  }

  stop(why = STOPPED) {
    this.stopped ??= why;
    this.signalStop();
    this.request?.abort();
    this.resume?.();
  }

  // Close the upload, find out what arrived of the last request, and return what to tell.
  async close(problem) {
    if (problem) for (const drop of this.following.splice(0)) this.take(drop);
    const [interrupted, left] = [this.pending, problem ? this.waiting.splice(0) : []];
    let known = [];
    let unsure = "";
    try {
      if (this.addresses) {
        if (problem) await this.sayRest();
        const reason = problem ? because(this.stopped ?? problem.message) : undefined;
        const work = () => this.ask(this.addresses.close, { files: interrupted.map((entry) => this.offer(entry)), reason });
        ({ known } = await (problem ? work() : this.persist(work)));
      }
    } catch (error) {
      problem ??= error;
      if (error instanceof Lost) {
        const [{ addresses }, why] = [this, because(this.stopped ?? error.message)];
        this.closing = () => this.ask(addresses.close, { files: [], reason: why });
      }
      unsure = interrupted.length && error instanceof Lost ? " The connection is lost, so these may include files that arrived: sending them again does no harm." : "";
    }
    this.arrive(interrupted.filter((_, n) => known[n]));
    this.giveUp([...this.pending, ...left]);
    const reason = problem ? `${problem instanceof Stopped ? "Stopped." : problem.message} ` : "";
    return `${reason}${arrivedText(this)}${unsure}`;
  }

  end(text) {
    this.progress.element.hidden = true;
    this.showMessage(text);
    this.list.replaceChildren(...linesOf(this.unsent));
    this.list.hidden = this.againButton.hidden = !this.unsent.length;
    if (!this.unsent.length) this.describing = [];
    for (const live of [this.outcomes, document.querySelector("#index-state")]) live.dispatchEvent(new Event("live:wake"));
    // keep the focus if the user works elsewhere on the page
    if (document.activeElement === document.body || this.progress.element.contains(document.activeElement)) document.querySelector("#outcomes-title").focus();
  }

  show(bytes) { this.progress.show(this, bytes); }
}

const because = (why) => `Not sent: ${why}`.slice(0, MAX_REASON);
const keyOf = (entry) => `${entry.file.size} ${entry.name}`;
