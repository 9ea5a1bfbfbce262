// Collect the files of a drop, including all files in dropped folders, and tell clutter by the table of files.
import { CLUTTER, DESCRIBING, GLOBS, MAX_PLACES } from "./file_table.js";

// Counts the clutter of one upload by folder, like ClutterCount on the server.
export class Clutter {
  constructor() { this.places = new Map(); }

  // Return whether a file is clutter, and count it if it is.
  take(name) {
    const path = name.replaceAll("\\", "/").split("/").filter((part) => !["", ".", ".."].includes(part)).join("/");
    const match = CLUTTER.exec(path);
    if (!match) return false;
    const [glob] = GLOBS[match.findIndex((group, index) => index > 0 && group !== undefined) - 1];
    const whole = path.slice(0, match.index + match[0].length);
    let place = whole.slice(0, whole.lastIndexOf("/") + 1) + glob;
    if (!this.places.has(place) && this.places.size >= MAX_PLACES) place = `…/${glob}`;
    const counted = this.places.get(place) ?? { name: whole, count: 0 };
    counted.count += 1;
    this.places.set(place, counted);
    return true;
  }

  // Return {name, count} of each folder and kind of clutter; the server has the words for it.
  counts() {
    return [...this.places].map(([place, { name, count }]) => ({ name: count === 1 ? name : place, count }));
  }
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

// Return {files: [{file, name}], clutter, unreadable: [names]}. Call it during the drop event.
export function dropped(transfer) {
  const found = { files: [], clutter: new Clutter(), unreadable: [] };
  const entries = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.();
    const file = entry ? null : item.getAsFile();
    if (entry) entries.push(entry); else if (file) add(found, file, file.name);
  }
  return walk(entries, found);
}

// Return the same of chosen files.
export function chosen(files) {
  const found = { files: [], clutter: new Clutter(), unreadable: [] };
  for (const file of files) add(found, file, file.webkitRelativePath || file.name);
  found.files.sort((a, b) => byName(a.name, b.name));
  return found;
}

function add(found, file, name) {
  if (!found.clutter.take(name)) found.files.push({ file, name });
}

async function walk(entries, found) {
  for (const entry of entries) {
    const name = entry.fullPath.replace(/^\//, "");
    try {
      if (entry.isDirectory) await walk(await entriesOf(entry), found);
      else if (!found.clutter.take(name)) found.files.push({ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), name });
    } catch {
      if (!found.clutter.take(name)) found.unreadable.push(name);
    }
  }
  return found;
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
