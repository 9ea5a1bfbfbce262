// Fetch parts of pages from this server.

export class Refused extends Error {
  constructor(status, text) {
    super(text || `The server returned status ${status}.`);
    this.status = status;
  }
}

export const asScript = { "X-Requested-With": "fetch" };

// Tell the whole page that the server answers.
export const answered = () => document.dispatchEvent(new Event("server:answered"));

export async function piece(address, options = {}) {
  return content(await request(address, options));
}

// Fetch a part that is polled; content is null if the part still has this tag.
export async function changed(address, tag, options = {}) {
  const known = tag ? { "If-None-Match": tag } : {};
  const answer = await request(address, { ...options, headers: { ...asScript, ...known } });
  if (answer.status === 304) return { tag, content: null };
  return { tag: answer.headers.get("ETag"), content: await content(answer) };
}

function request(address, options) {
  return fetch(address, { headers: asScript, cache: "no-store", ...options });
}

async function content(answer) {
  const text = await answer.text();
  if (!answer.ok) throw new Refused(answer.status, answer.headers.get("Content-Type")?.startsWith("text/plain") ? text : "");
  const holder = document.createElement("template");
  holder.innerHTML = text;
  return holder.content;
}
