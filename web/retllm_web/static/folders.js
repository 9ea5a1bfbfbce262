// The files of what was dropped: folders are looked through with all that is below them.

// What a system puts into folders for itself.
const OF_THE_SYSTEM = new Set(["Thumbs.db", "desktop.ini", "__MACOSX"]);

export function isHidden(path) {
  return path.split("/").some((part) => part.startsWith(".") || OF_THE_SYSTEM.has(part));
}

// "page 9" before "page 10"
export function byName(a, b) {
  return a.localeCompare(b, undefined, { numeric: true });
}

// Call it during the drop itself. Returns {files: [{file, name}], hidden: a number, unreadable: [names]}.
export function dropped(transfer) {
  const found = { files: [], hidden: 0, unreadable: [] };
  const entries = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.();
    const file = entry ? null : item.getAsFile();
    if (entry) entries.push(entry); else if (file) keep(found, file, file.name);
  }
  return walk(entries, found);
}

function keep(found, file, name) {
  if (isHidden(name)) found.hidden += 1; else found.files.push({ file, name });
}

async function walk(entries, found) {
  for (const entry of entries) {
    const name = entry.fullPath.replace(/^\//, "");
    try {
      if (entry.isDirectory && !isHidden(name)) await walk(await inside(entry), found);
      else if (entry.isFile) keep(found, await new Promise((resolve, reject) => entry.file(resolve, reject)), name);
      else found.hidden += 1;
    } catch {
      found.unreadable.push(name);
    }
  }
  return found;
}

// A reader gives a hundred entries at a time, and none at the end.
async function inside(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return all.sort((a, b) => byName(a.name, b.name));
    all.push(...some);
  }
}
