// Collect the files of a drop, including all files in dropped folders.

// Files that operating systems add to folders.
const SYSTEM_FILES = new Set(["Thumbs.db", "desktop.ini", "__MACOSX"]);

export function isHidden(path) {
  return path.split("/").some((part) => part.startsWith(".") || SYSTEM_FILES.has(part));
}

// Sort numerically: "page 9" before "page 10".
export function byName(a, b) {
  return a.localeCompare(b, undefined, { numeric: true });
}

// Return {files: [{file, name}], hidden: a count, unreadable: [names]}. Call it during the drop event.
export function dropped(transfer) {
  const found = { files: [], hidden: 0, unreadable: [] };
  const entries = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.();
    const file = entry ? null : item.getAsFile();
    if (entry) entries.push(entry); else if (file) add(found, file, file.name);
  }
  return walk(entries, found);
}

function add(found, file, name) {
  if (isHidden(name)) found.hidden += 1; else found.files.push({ file, name });
}

async function walk(entries, found) {
  for (const entry of entries) {
    const name = entry.fullPath.replace(/^\//, "");
    try {
      if (entry.isDirectory && !isHidden(name)) await walk(await entriesOf(entry), found);
      else if (entry.isFile) add(found, await new Promise((resolve, reject) => entry.file(resolve, reject)), name);
      else found.hidden += 1;
    } catch {
      found.unreadable.push(name);
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
