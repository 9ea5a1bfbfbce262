// Pieces of pages from this server.

export class Refused extends Error {
  constructor(status, text) {
    super(text || `the server answered ${status}`);
    this.status = status;
  }
}

export const asScript = { "X-Requested-With": "fetch" };

export async function piece(address, options = {}) {
  const answer = await fetch(address, { headers: asScript, cache: "no-store", ...options });
  const text = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, answer.headers.get("Content-Type")?.startsWith("text/plain") ? text : "");
  const holder = document.createElement("template");
  holder.innerHTML = text;
  return holder.content;
}
