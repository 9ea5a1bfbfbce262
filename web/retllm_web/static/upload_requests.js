// The requests of an upload. A lost connection (Lost) is tried again by the caller; a refusal (Refused) is not.
import { Refused, asScript } from "./piece.js";

export { Refused };

// larger files are compared by name and size
const MAX_HASHED = 64 * 1024 * 1024;
// without any progress for so long, the connection counts as lost
const STALLED_MS = 60000;
const LOST = [429, 502, 503, 504];

export class Lost extends Error {
  constructor(status) { super(status ? "The server is not available." : "Connection lost."); }
}

// Return whether a file can still be read, and note its hash.
export async function isReadable(entry) {
  const whole = Boolean(globalThis.crypto?.subtle) && entry.file.size <= MAX_HASHED;
  try {
    const bytes = await (whole ? entry.file : entry.file.slice(0, 1)).arrayBuffer();
    entry.sha256 = whole ? hexadecimal(await crypto.subtle.digest("SHA-256", bytes)) : null;
    return true;
  } catch {
    return false;
  }
}

function hexadecimal(buffer) {
  return [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Post a body and return the object in the answer.
export async function post(address, body, headers = {}) {
  let answer;
  let text;
  try {
    answer = await fetch(address, { method: "POST", body, headers: { ...asScript, Accept: "application/json", ...headers }, signal: AbortSignal.timeout(STALLED_MS) });
    text = await answer.text();
  } catch {
    throw new Lost();
  }
  if (!answer.ok) throw problem(answer.status, text);
  return JSON.parse(text);
}

// Send files, with the share of bytes that has left; ``started`` gets the request, to abort it.
export function send(address, token, entries, onProgress, started) {
  const body = new FormData();
  body.append("csrf_token", token);
  for (const entry of entries) body.append("file", entry.file, entry.name);
  // fetch reports no upload progress
  const request = new XMLHttpRequest();
  let timer;
  const watch = () => { clearTimeout(timer); timer = setTimeout(() => request.abort(), STALLED_MS); };
  started(request);
  return new Promise((resolve, reject) => {
    request.open("POST", address);
    for (const [name, value] of Object.entries({ ...asScript, Accept: "application/json" })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => { watch(); if (event.lengthComputable) onProgress(event.loaded / event.total); });
    request.addEventListener("load", () => (request.status === 204 ? resolve() : reject(problem(request.status, request.responseText))));
    for (const name of ["error", "abort"]) request.addEventListener(name, () => reject(new Lost()));
    request.addEventListener("loadend", () => clearTimeout(timer));
    watch();
    request.send(body);
  });
}

// Close an upload from a page that is being left.
export function closeByBeacon(addresses, token) {
  if (!addresses) return;
  const body = new FormData();
  body.append("csrf_token", token);
  navigator.sendBeacon(addresses.close, body);
}

function problem(status, text) {
  if (LOST.includes(status)) return new Lost(status);
  return new Refused(status, status === 401 ? "You are logged out. Reload the page to log in." : messageOf(text));
}

function messageOf(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text.length < 300 && !text.includes("<") ? text : "";
  }
}
