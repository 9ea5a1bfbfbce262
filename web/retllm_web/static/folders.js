// Collect the files of a drop, including all files in dropped folders, and tell clutter by the table of files.
// What is not sent has an outcome {name, status, reason}, which the server notes; the command line has the same words.
import { CLUTTER, DESCRIBING, GLOBS, MAX_PLACES } from "./file_table.js";

// Counts the clutter of one upload by folder, like ClutterCount on the server.
export class Clutter {
  constructor() { this.places = new Map(); }

  // Return whether a file is clutter, and count it if it is.
  take(name) {
    const path = name.replaceAll("\\", "/").split("/").filter((part) => !["", ".", ".."].includes(part)).join("/");
    const match = CLUTTER.exec(path);
    if (!match) return false;
    const [glob, reason] = GLOBS[match.findIndex((group, index) => index > 0 && group !== undefined) - 1];
    const whole = path.slice(0, match.index + match[0].length);
    let place = whole.slice(0, whole.lastIndexOf("/") + 1) + glob;
    if (!this.places.has(place) && this.places.size >= MAX_PLACES) place = `…/${glob}`;
    const counted = this.places.get(place) ?? { name: whole, reason, count: 0 };
    counted.count += 1;
    this.places.set(place, counted);
    return true;
  }

  // Return one outcome for each folder and kind of clutter.
  outcomes() {
    return [...this.places].map(([place, { name, reason, count }]) => {
      const files = count === 1 ? "" : `, ${count.toLocaleString("en")} files`;
      return { name: count === 1 ? name : place, status: "ignored", reason: `Left out: ${reason}${files}.`, count };
    });
  }
}

const READING_MS = 10000;
const OTHERWISE = "Upload the folder by the command line (retllm upload) or as a ZIP.";

export function unreadable(name) {
  const reason = "The browser cannot read this file. Check its permissions, whether it still exists, whether it was changed meanwhile and, if it is a link, what it leads to; then try again.";
  return { name, status: "rejected", reason };
}

function unreadableFolder(name) {
  return { name, status: "rejected", reason: `The browser cannot read this folder, or not all of it. Check its permissions and try again.` };
}

// Chromium gives these entries no name and the path of the folder that they are in; as folders they would have its content.
function nameless(kind, entries) {
  const count = entries.length;
  const [what, whose] = count === 1 ? [`a ${kind}`, "its name is"] : [`${count.toLocaleString("en")} ${kind}s`, "their names are"];
  const reason = `The browser cannot read ${what} here, since ${whose} not UTF-8. ${OTHERWISE}`;
  return { name: `${pathOf(entries[0])}…${kind === "folder" ? "/…" : ""}`, status: "rejected", reason, count };
}

// What was chosen or dropped: the files to send, as {file, name}, and the outcomes of what is not sent.
class Found {
  constructor() { Object.assign(this, { files: [], clutter: new Clutter(), others: [], seen: 0 }); }

  // Return whether a file with this name is to be sent.
  takes(name) {
    this.seen += 1;
    return !this.clutter.take(name);
  }

  get unsent() { return [...this.others, ...this.clutter.outcomes()]; }
}

// Whether a file may say something of pictures, so that it is sent before them.
export function describes(name) {
  const lower = name.toLowerCase();
  return DESCRIBING.some((suffix) => lower.endsWith(suffix));
}

// Sort numerically: "page 9" before "page 10".
export function byName(a, b) {
  return a.localeCompare(b, undefined, { numeric: true });
}

// Return a promise of what was dropped. Call it during the drop event.
export function dropped(transfer) {
  const found = new Found();
  const entries = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.();
    const file = entry ? null : item.getAsFile();
    if (entry) entries.push(entry); else if (file) add(found, file, file.name);
  }
  return walkAll(entries, found);
}

// Return the same of chosen files.
export function chosen(files) {
  const found = new Found();
  for (const file of files) add(found, file, file.webkitRelativePath || file.name);
  found.files.sort((a, b) => byName(a.name, b.name));
  return found;
}

function add(found, file, name) {
  if (found.takes(name)) found.files.push({ file, name });
}

async function walkAll(entries, found) {
  for (const entry of entries) {
    const before = found.seen;
    await walk([entry], found);
    if (found.seen === before) found.others.push({ name: entry.name, status: "rejected", reason: "The folder contains no files." });
  }
  return found;
}

async function walk(entries, found) {
  for (const kind of ["folder", "file"]) {
    const some = entries.filter((entry) => !entry.name && Boolean(entry.isDirectory) === (kind === "folder"));
    found.seen += some.length;
    if (some.length) found.others.push(nameless(kind, some));
  }
  for (const entry of entries.filter((one) => one.name)) {
    const name = pathOf(entry);
    if (entry.isDirectory) {
      const { inside, whole } = await entriesOf(entry);
      if (!whole && found.takes(name)) found.others.push(unreadableFolder(name));
      await walk(inside, found);
    } else if (found.takes(name)) {
      const file = await answer((resolve, reject) => entry.file(resolve, reject)).catch(() => null);
      if (file) found.files.push({ file, name }); else found.others.push(unreadable(name));
    }
  }
}

const pathOf = (entry) => entry.fullPath.replace(/^\//, "");

// Return what is in a folder, and whether that is all. A reader returns 100 entries at a time and an empty list at the end.
async function entriesOf(folder) {
  const reader = folder.createReader();
  const inside = [];
  let batch = null;
  do {
    batch = await answer((resolve, reject) => reader.readEntries(resolve, reject)).catch(() => null);
    inside.push(...batch ?? []);
  } while (batch?.length);
  return { inside: inside.sort((a, b) => byName(a.name, b.name)), whole: batch !== null };
}

// Return a promise of what a file system answers in a bounded time.
function answer(ask) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(reject, READING_MS);
    ask((value) => { clearTimeout(timer); resolve(value); }, (error) => { clearTimeout(timer); reject(error); });
  });
}
