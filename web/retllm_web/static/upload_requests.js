// The requests of an upload. A lost connection (Lost) is tried again by the caller; a refusal (Refused) is not.
import { Refused, answered, asScript } from "./piece.js";

export { Refused };

const TUS = { "Tus-Resumable": "1.0.0" };
// without any progress for so long, the connection counts as lost
const STALLED_MS = 60000;
const LOST = [429, 502, 503, 504];

export class Lost extends Error {
  constructor(status) { super(status ? "The server is not available." : "Connection lost."); }
}

// Post a body and return the object in the answer; null if there is none.
export async function post(address, body, headers = {}) {
  const { text } = await ask("POST", address, headers, body);
  return text ? JSON.parse(text) : null;
}

// Return whether every file of an upload has its outcome; that of one that was deleted, or is hidden now, does not matter.
export async function isProcessed(address) {
  try {
    return JSON.parse((await ask("GET", address, {})).text).processed;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return true;
  }
}

async function ask(method, address, headers, body) {
  let answer;
  let text;
  try {
    answer = await fetch(address, { method, body, headers: { ...asScript, Accept: "application/json", ...headers }, cache: "no-store", signal: AbortSignal.timeout(STALLED_MS) });
    text = await answer.text();
  } catch {
    throw new Lost();
  }
  if (!answer.ok) throw problem(answer.status, text);
  answered();
  return { text, headers: answer.headers };
}

// The name without halves of characters, which no text on the server has.
export const wellFormed = (name) => name.toWellFormed?.() ?? name.replace(/\p{Surrogate}/gu, "\ufffd");

// Send files, with the share of bytes that has left; ``started`` gets the request, to abort it.
export async function send(address, token, entries, onProgress, started) {
  const body = new FormData();
  body.append("csrf_token", token);
  for (const entry of entries) body.append("file", entry.file, encodeURIComponent(wellFormed(entry.name)));
  await transfer("POST", address, {}, body, onProgress, started);
}

// Announce a large file (tus: creation). Return its address, and where its next part begins: parts may be here already.
export async function begin(address, token, name, { file, sha256, slices }) {
  const values = { filename: name, ...(sha256 ? { sha256 } : {}), ...(slices ? { slices } : {}) };
  const metadata = Object.entries(values).map(([key, value]) => `${key} ${inBase64(value)}`).join(",");
  const { id, offset } = await post(address, undefined, { ...TUS, "X-CSRFToken": token, "Upload-Length": file.size, "Upload-Metadata": metadata });
  return { address: `${address}/${id}`, offset };
}

// Return where the next part of a large file begins.
export async function offsetOf(address) {
  const { headers } = await ask("HEAD", address, TUS);
  return Number(headers.get("Upload-Offset"));
}

// Send a part of a large file like ``send``; return where the next one begins.
export async function sendPart(address, token, part, offset, onProgress, started) {
  const headers = { ...TUS, "X-CSRFToken": token, "Upload-Offset": offset, "Content-Type": "application/offset+octet-stream" };
  try {
    const answer = await transfer("PATCH", address, headers, part, onProgress, started);
    return Number(answer.getResponseHeader("Upload-Offset"));
  } catch (error) {
    // what arrived of a part before the connection broke may be recorded only now
    if (error.offset === undefined) throw error;
    return error.offset;
  }
}

function inBase64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}

// fetch reports no upload progress
function transfer(method, address, headers, body, onProgress, started) {
  const request = new XMLHttpRequest();
  let timer;
  const watch = () => { clearTimeout(timer); timer = setTimeout(() => request.abort(), STALLED_MS); };
  started(request);
  return new Promise((resolve, reject) => {
    request.open(method, address);
    for (const [name, value] of Object.entries({ ...asScript, Accept: "application/json", ...headers })) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => { watch(); if (event.lengthComputable) onProgress(event.loaded / event.total); });
    request.addEventListener("load", () => {
      if (request.status !== 204) { reject(problem(request.status, request.responseText)); return; }
      answered();
      resolve(request);
    });
    for (const name of ["error", "abort"]) request.addEventListener(name, () => reject(new Lost()));
    request.addEventListener("loadend", () => clearTimeout(timer));
    watch();
    request.send(body);
  });
}

// Close an upload from a page that is being left.
export function closeByBeacon(addresses, token, reason) {
  if (!addresses) return;
  const body = new FormData();
  body.append("csrf_token", token);
  body.append("reason", reason);
  navigator.sendBeacon(addresses.close, body);
}

function problem(status, text) {
  if (LOST.includes(status)) return new Lost(status);
  const { message, detail } = errorOf(text);
  const refused = new Refused(status, status === 401 ? "You are logged out. Reload the page to log in." : message);
  return Object.assign(refused, { offset: detail?.offset });
}

function errorOf(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return { message: text.length < 300 && !text.includes("<") ? text : "" };
  }
}
