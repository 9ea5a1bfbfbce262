// What the form of an upload shows while files are sent: a bar, files, bytes, and the time that is left.

// before that the speed is not known well
const MEASURED_S = 3;

export const bytesOf = (files) => files.reduce((sum, entry) => sum + entry.file.size, 0);
export const filesText = (count) => (count === 1 ? "1 file" : `${count.toLocaleString("en")} files`);

export class Progress {
  constructor(form) {
    this.element = form.querySelector("[data-progress]");
    this.bar = this.element.querySelector("progress");
    this.text = form.querySelector("[data-sent]");
  }

  start() {
    this.element.hidden = false;
    this.bar.value = 0;
    this.started = performance.now();
  }

  // The time since then does not count for the speed: nothing could be sent.
  excludeSince(moment) { this.started += performance.now() - moment; }

  show({ arrived, files, bytes }, sentBytes) {
    this.bar.value = Math.min(1, sentBytes / Math.max(1, bytes));
    const seconds = (performance.now() - this.started) / 1000;
    const left = sentBytes > 0 && seconds > MEASURED_S ? ((bytes - sentBytes) / sentBytes) * seconds : 0;
    const time = left < 1 ? "" : `, about ${duration(left)} left`;
    this.text.textContent = `${arrived.toLocaleString("en")} of ${filesText(files)}, ${size(sentBytes)} of ${size(bytes)}${time}`;
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
