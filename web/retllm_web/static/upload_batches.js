// Which files one request has, and which files need an upload of their own.
import { SHEETS } from "./file_table.js";
import { describes } from "./folders.js";

const BATCH_FILES = 20;
// on a slow line too, what arrived is soon known, and what a cancellation ended
const BATCH_BYTES = 8 * 1024 * 1024;

// Remove and return the next files to send; those that say something of pictures come before all pictures, and files of
// more than ``large`` bytes come alone.
export function nextBatch(waiting, large = Infinity) {
  const describing = waiting.filter((entry) => describes(entry.name));
  const batch = [];
  let bytes = 0;
  for (const entry of describing.length ? describing : waiting) {
    const full = batch.length >= BATCH_FILES || bytes + entry.file.size > BATCH_BYTES;
    if (batch.length && (full || entry.file.size > large || batch[0].file.size > large)) break;
    batch.push(entry);
    bytes += entry.file.size;
  }
  const taken = new Set(batch);
  waiting.splice(0, waiting.length, ...waiting.filter((entry) => !taken.has(entry)));
  return batch;
}

// Return whether files may contradict those that an upload has: of two sheets of one upload that disagree neither is
// later, and so the correction of the other.
export function mayContradict(files, earlier) {
  const describing = files.filter((entry) => describes(entry.name));
  const names = new Set(earlier.map((entry) => entry.name));
  return describing.some((entry) => names.has(entry.name)) || (describing.some(isSheet) && earlier.some(isSheet));
}

const isSheet = (entry) => SHEETS.some((suffix) => entry.name.toLowerCase().endsWith(suffix));
