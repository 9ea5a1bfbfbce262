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

export function unreadable(name) {
  const reason = "The browser cannot read this file. Check its permissions and whether it still exists, and try again.";
  return { name, status: "rejected", reason };
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
  for (const entry of entries) {
    const name = entry.fullPath.replace(/^\//, "");
    try {
      if (entry.isDirectory) await walk(await entriesOf(entry), found);
      else if (found.takes(name)) found.files.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), name });
    } catch {
      if (entry.isFile || found.takes(name)) found.others.push(unreadable(name));
    }
  }
}

// A reader returns 100 entries at a time and an empty list at the end.
async function entriesOf(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const batch = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!batch.length) return all.sort((a, b) => byName(a.name, b.name));
    all.push(...batch);
  }
}
