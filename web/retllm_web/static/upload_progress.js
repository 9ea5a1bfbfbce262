// What the form of an upload shows while files are sent: a bar, files, bytes, and the time that is left.

// the speed is that of the last seconds: files that the server has already take no time, and a line changes
const WINDOW_MS = 20000;
// before that the speed is not known well
const MEASURED_MS = 3000;
const MAX_LISTED = 5;

export const bytesOf = (files) => files.reduce((sum, entry) => sum + entry.file.size, 0);
export const filesText = (count) => (count === 1 ? "1 file" : `${count.toLocaleString("en")} files`);

// Return what is said while files are sent, with how many follow in other uploads.
export function sendingText(files, following) {
  const whose = following === 1 ? "follows in an upload of its" : "follow in an upload of their";
  return `Sending ${filesText(files)}…${following ? ` ${filesText(following)} that may correct captions ${whose} own.` : ""}`;
}

// Return what is said when an upload has ended.
export function arrivedText({ arrived, files, unsent, unread }) {
  const of = arrived === files && !unsent.length ? filesText(files) : `${arrived.toLocaleString("en")} of ${filesText(files)}`;
  const rest = unsent.length ? ` ${filesText(unsent.length)} ${unsent.length === 1 ? "was" : "were"} not sent.` : "";
  return `${of} arrived.${unread ? ` ${filesText(unread)} could not be read.` : ""}${rest}`;
}

// Return the lines of a list of files that were not sent: the first ones, with the reason if it is theirs alone.
export function linesOf(unsent) {
  const names = unsent.slice(0, MAX_LISTED).map(({ entry, reason }) => (reason ? `${entry.name}: ${reason}` : entry.name));
  const more = unsent.length - names.length;
  return [...names, ...(more ? [`and ${more.toLocaleString("en")} more`] : [])].map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  });
}

export class Progress {
  constructor(form) {
    this.element = form.querySelector("[data-progress]");
    this.bar = this.element.querySelector("progress");
    this.text = form.querySelector("[data-sent]");
  }

  start() {
    this.element.hidden = false;
    this.bar.value = 0;
    this.forget();
  }

  // Forget the speed, for example of a connection that was lost.
  forget() { this.samples = []; }

  show({ arrived, files, bytes }, sentBytes) {
    this.bar.value = Math.min(1, sentBytes / Math.max(1, bytes));
    const left = (bytes - sentBytes) / this.speed(sentBytes);
    const time = left >= 1 && left < Infinity ? `, about ${duration(left)} left` : "";
    this.text.textContent = `${arrived.toLocaleString("en")} of ${filesText(files)}, ${size(sentBytes)} of ${size(bytes)}${time}`;
  }

  // Show how much of a large file was read, before anything of it is sent.
  showReading(name, bytes, whole) {
    this.text.textContent = `Reading ${name}, ${size(bytes)} of ${size(whole)}…`;
    this.forget();
  }

  // Return the bytes per second, 0 if that is not known.
  speed(sentBytes) {
    const now = performance.now();
    // what was on its way when a request broke is sent again
    if (sentBytes < this.samples.at(-1)?.bytes) this.forget();
    this.samples.push({ now, bytes: sentBytes });
    while (now - this.samples[0].now > WINDOW_MS && this.samples.length > 2) this.samples.shift();
    const [first] = this.samples;
    return now - first.now < MEASURED_MS ? 0 : (sentBytes - first.bytes) / ((now - first.now) / 1000);
  }
}

function duration(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  const minutes = Math.ceil(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function size(bytes) {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(bytes < 1e5 ? 1 : 0)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
