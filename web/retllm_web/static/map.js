// The map of a collection on a canvas: load its points, move, zoom, show what a point is, and select an area.
// The selection is a filter, so that gallery and actions take it like any other.
import { boxOf, contains, lineOf, numbersOf } from "./map_shapes.js";
import { View } from "./map_view.js";

const NO_ITEM = "00000000-0000-0000-0000-000000000000";
const WAIT_MS = 120;
const STEP = 60;
const CLICK_PIXELS = 5;
const root = document.querySelector("[data-map]");

function start() {
  const find = (name) => root.querySelector(`[data-${name}]`);
  const canvas = find("canvas");
  const view = new View(canvas, [...root.querySelectorAll("[data-swatch]")]);
  canvas.hidden = find("tools").hidden = false;
  find("picture").toggleAttribute("hidden", true);
  root.querySelector(".map-sample")?.remove();
  view.resize();
  const selection = new Selection(view);
  new Hand(view, canvas, selection, new Card(view, find("card")));
  find("tools").addEventListener("click", (event) => {
    const { zoom, selectShown } = event.target.closest("button")?.dataset ?? {};
    if (zoom === "0") view.showAll(); else if (zoom) view.zoom(Number(zoom));
    if (selectShown !== undefined) selection.choose(boxOf(view.placeOf(0, 0), view.placeOf(canvas.clientWidth, canvas.clientHeight)));
  });
  load(view, find("loaded"));
}

async function load(view, status) {
  let after = null;
  try {
    do {
      const address = new URL(root.dataset.points, location.href);
      if (after !== null) address.searchParams.set("after", after);
      // the first ones, which are a sample of all, soon
      address.searchParams.set("limit", after === null ? "3000" : "10000");
      const answer = await fetch(address, { headers: { Accept: "application/json" }, cache: "no-store" });
      const page = await answer.json();
      if (!answer.ok) throw new Error(page.error.message);
      view.add(page);
      after = page.next;
      status.textContent = after === null ? `${view.ids.length.toLocaleString("en")} items` : `${view.ids.length.toLocaleString("en")} items, more are loading`;
    } while (after !== null);
  } catch (problem) {
    status.textContent = `Not all items could be loaded: ${problem.message}`;
  }
}

// What is under the pointer: its picture and its name.
class Card {
  constructor(view, element) {
    Object.assign(this, { view, element, names: new Map() });
  }

  show(x, y) {
    const index = this.view.nearest(x, y);
    if (index === this.view.current) return;
    this.view.current = index;
    this.view.draw();
    this.element.hidden = true;
    clearTimeout(this.timer);
    if (index >= 0) this.timer = setTimeout(() => this.fill(index, x, y), WAIT_MS);
  }

  async fill(index, x, y) {
    const id = this.view.ids[index];
    if (!this.names.has(id)) {
      const answer = await fetch(root.dataset.about.replace(NO_ITEM, id), { headers: { Accept: "application/json" } });
      if (!answer.ok) return;
      this.names.set(id, await answer.json());
    }
    if (this.view.current !== index) return;
    const item = this.names.get(id);
    const name = document.createElement("span");
    name.textContent = item.name;
    name.dir = "auto";
    this.element.replaceChildren(...(item.has_picture ? [this.picture(id)] : []), name);
    this.element.hidden = false;
    const { clientWidth: width, clientHeight: height } = this.view.canvas;
    this.element.style.left = `${x < width / 2 ? x + 14 : Math.max(0, x - this.element.offsetWidth - 14)}px`;
    this.element.style.top = `${Math.max(0, Math.min(y, height - this.element.offsetHeight))}px`;
  }

  picture(id) {
    const picture = document.createElement("img");
    picture.src = `${root.dataset.about.replace(NO_ITEM, id)}/thumbnail`;
    picture.alt = "";
    return picture;
  }

  hide() {
    clearTimeout(this.timer);
    this.view.current = -1;
    this.element.hidden = true;
    this.view.draw();
  }
}

class Selection {
  constructor(view) {
    this.view = view;
    this.bar = document.querySelector("[data-selected]");
    this.bar.querySelector("[data-selected-none]").addEventListener("click", () => this.clear());
  }

  choose(shape) {
    const { view } = this;
    const chosen = new Set();
    for (let index = 0; index < view.ids.length; index++) if (contains(shape, view.xs[index], view.ys[index])) chosen.add(index);
    if (!chosen.size) { this.clear(); return; }
    Object.assign(view, { shape, chosen });
    view.draw();
    const text = root.dataset.selection;
    const end = text.lastIndexOf("AREA");
    const filter = text.slice(0, end) + numbersOf(shape) + text.slice(end + 4);
    const gallery = new URL(root.dataset.gallery, location.href);
    gallery.searchParams.set("filter", filter);
    gallery.hash = "items";
    this.bar.querySelector("[data-selected-gallery]").href = gallery.href;
    const field = this.bar.querySelector("[data-selected-filter]");
    if (field) field.value = filter;
    this.bar.hidden = false;
    this.bar.querySelector("[data-selected-count]").textContent = `${chosen.size.toLocaleString("en")} selected`;
  }

  clear() {
    Object.assign(this.view, { shape: [], chosen: null });
    this.bar.hidden = true;
    this.view.draw();
  }
}

// Pointers, wheel and keys on the canvas.
class Hand {
  constructor(view, canvas, selection, card) {
    Object.assign(this, { view, canvas, selection, card, tool: "move", pointers: new Map(), line: [] });
    for (const button of root.querySelectorAll("[data-tool]")) button.addEventListener("click", () => this.take(button.dataset.tool));
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    // a finger leaves with each tap, whose card is to stay
    canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") card.hide(); });
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  take(tool) {
    this.tool = tool;
    for (const button of root.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", button.dataset.tool === tool);
    this.canvas.classList.toggle("choosing", tool !== "move");
  }

  at(event) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  down(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    const place = this.at(event);
    this.pointers.set(event.pointerId, place);
    this.began = this.pointers.size === 1 ? place : null;
    this.isDrag = false;
    this.line = [this.view.placeOf(...place)];
    this.told = this.view.current;
    this.card.hide();
  }

  moved(event) {
    const place = this.at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) { if (event.pointerType === "mouse") this.card.show(...place); return; }
    this.isDrag ||= !this.began || Math.hypot(place[0] - this.began[0], place[1] - this.began[1]) >= CLICK_PIXELS;
    if (this.pointers.size === 2) this.pinch(event.pointerId, place);
    else if (this.tool === "move") this.view.move(place[0] - before[0], place[1] - before[1]);
    else this.drawn(this.view.placeOf(...place));
    this.pointers.set(event.pointerId, place);
  }

  drawn(place) {
    if (this.tool === "lasso") this.line.push(place); else this.line = [this.line[0], place];
    this.view.shape = this.tool === "box" ? boxOf(...this.line) : this.line;
    this.view.draw();
  }

  pinch(moving, place) {
    const [[, still]] = [...this.pointers].filter(([id]) => id !== moving);
    const distance = ([x, y]) => Math.hypot(x - still[0], y - still[1]) || 1;
    this.view.zoom(distance(place) / distance(this.pointers.get(moving)), ...still);
  }

  up(event) {
    const place = this.at(event);
    const began = this.pointers.size === 1 && this.began;
    this.pointers.delete(event.pointerId);
    if (!began) return;
    if (!this.isDrag) this.click(event, place);
    else if (this.tool === "box") this.selection.choose(boxOf(...this.line));
    else if (this.tool === "lasso" && this.line.length > 2) this.selection.choose(lineOf(this.line));
  }

  click(event, place) {
    const index = this.view.nearest(...place);
    if (index < 0) { this.selection.clear(); return; }
    // on a touch screen the first tap tells what it is
    if (event.pointerType !== "mouse" && this.told !== index) { this.card.show(...place); return; }
    location.href = root.dataset.item.replace(NO_ITEM, this.view.ids[index]);
  }

  // without a key, the wheel scrolls the page past a map that nobody clicked; touchpads tell a pinch as Ctrl
  wheel(event) {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.canvas) return;
    event.preventDefault();
    this.view.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...this.at(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (moves[event.key]) this.view.move(...moves[event.key]);
    else if (event.key === "+") this.view.zoom(1.5);
    else if (event.key === "-") this.view.zoom(1 / 1.5);
    else if (event.key === "0") this.view.showAll();
    else if (event.key === "Escape") this.selection.clear();
    else return;
    event.preventDefault();
  }
}

// last, because a class can't be used before its declaration
if (root) start();
