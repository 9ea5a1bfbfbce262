// Names that look the same in one folder get a code at their end, as in archives: the server knows how.
import { Refused, post, wellFormed } from "./upload_requests.js";

const MAX_NAMES = 20000;

// What is left of a name is the same for all names that the server takes for one.
function bare(name) {
  const parts = name.replaceAll("\\", "/").split("/").map((part) => part.replace(/[\p{C}\p{Z}\s]+/gu, ""));
  return parts.filter((part) => !["", ".", ".."].includes(part)).join("/").normalize("NFC");
}

const folderOf = (name) => name.slice(0, name.lastIndexOf("/") + 1);

// Return the lists of files of those folders in which two names look the same; sidecars have the names of their pictures.
function alike(entries) {
  const folders = new Map();
  for (const entry of entries) {
    const key = bare(entry.name);
    const folder = folders.get(folderOf(key)) ?? { entries: [], raw: new Map(), alike: false };
    folder.alike ||= (folder.raw.get(key) ?? entry.name) !== entry.name;
    folder.raw.set(key, entry.name);
    folder.entries.push(entry);
    folders.set(folderOf(key), folder);
  }
  return [...folders.values()].filter((folder) => folder.alike && folder.entries.length <= MAX_NAMES).map((folder) => folder.entries);
}

// Change the names of files that are sent together where they look the same.
export async function tellApart(address, token, entries) {
  for (const some of alike(entries)) {
    try {
      const body = JSON.stringify({ names: some.map((entry) => wellFormed(entry.name)) });
      const { names } = await post(address, body, { "Content-Type": "application/json", "X-CSRFToken": token });
      some.forEach((entry, n) => { entry.name = names[n]; });
    } catch (error) {
      // they keep their names
      if (!(error instanceof Refused)) throw error;
    }
  }
}
