// Hashes of files, by which the server knows them again. Browsers offer them over HTTPS and on the server's own machine.

// what is larger is hashed in slices
const MAX_WHOLE = 64 * 1024 * 1024;
// as on the server
const SLICE = 4 * 1024 * 1024;

// Return whether a file can still be read, and note its hash: ``sha256``, or ``slices`` of a large one, during which
// ``onRead`` gets the bytes so far. It may throw to end that.
export async function isReadable(entry, onRead) {
  const { file } = entry;
  const hashes = Boolean(globalThis.crypto?.subtle);
  const whole = hashes && file.size <= MAX_WHOLE;
  try {
    const bytes = await (whole ? file : file.slice(0, 1)).arrayBuffer();
    entry.sha256 = whole ? hexadecimal(await sha256(bytes)) : null;
    if (hashes && !whole) entry.slices ??= await fingerprint(file, onRead);
    return true;
  } catch {
    return false;
  }
}

// Return the SHA-256 of the digests of a file's slices: only one of these is in memory.
async function fingerprint(file, onRead) {
  const digests = [];
  for (let start = 0; start < file.size; start += SLICE) {
    onRead(start);
    digests.push(await sha256(await file.slice(start, start + SLICE).arrayBuffer()));
  }
  return hexadecimal(await sha256(await new Blob(digests).arrayBuffer()));
}

const sha256 = (bytes) => crypto.subtle.digest("SHA-256", bytes);

function hexadecimal(buffer) {
  return [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
