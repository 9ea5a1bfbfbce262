// The drawing of a map: its points on a canvas, moved and zoomed.
const SIDE = 100;
const MOST_ZOOM = 200;
const BUCKETS = 64;

export class View {
  constructor(canvas, colours) {
    Object.assign(this, { canvas, colours, ids: [], xs: [], ys: [], groups: [], scale: 1, left: 0, top: 0 });
    this.buckets = Array.from({ length: BUCKETS * BUCKETS }, () => []);
    this.order = colours.map(() => []);
    this.chosen = null;
    this.shape = [];
    this.current = -1;
    new ResizeObserver(() => this.resize()).observe(canvas);
    // the colours follow the page's scheme
    new MutationObserver(() => this.draw()).observe(document.documentElement, { attributes: true, attributeFilter: ["data-bs-theme"] });
  }

  add({ ids, x, y, group }) {
    for (let place = 0; place < ids.length; place++) {
      const index = this.ids.length;
      this.ids.push(ids[place]);
      this.xs.push(x[place]);
      this.ys.push(y[place]);
      this.groups.push(group[place]);
      this.order[group[place]].push(index);
      this.bucket(x[place], y[place]).push(index);
    }
    this.draw();
  }

  bucket(x, y) {
    const at = (value) => Math.min(BUCKETS - 1, Math.max(0, Math.floor((value / SIDE) * BUCKETS)));
    return this.buckets[at(y) * BUCKETS + at(x)];
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    Object.assign(this.canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const whole = Math.min(width, height) / (SIDE * 1.04);
    const isWhole = !this.whole || this.scale === this.whole;
    this.whole = whole;
    if (isWhole) this.showAll(); else this.draw();
  }

  showAll() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.scale = this.whole;
    this.left = (SIDE - width / this.scale) / 2;
    this.top = (SIDE - height / this.scale) / 2;
    this.draw();
  }

  // Return the place on the map of a place on the canvas, in pixels of the page.
  placeOf(x, y) { return [this.left + x / this.scale, this.top + y / this.scale]; }

  move(x, y) {
    this.left -= x / this.scale;
    this.top -= y / this.scale;
    this.draw();
  }

  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const [mapX, mapY] = this.placeOf(x, y);
    this.scale = Math.min(this.whole * MOST_ZOOM, Math.max(this.whole / 2, this.scale * factor));
    this.left = mapX - x / this.scale;
    this.top = mapY - y / this.scale;
    this.draw();
  }

  get dot() { return Math.min(9, Math.max(2.5, (260 / Math.sqrt(this.ids.length || 1)) * Math.sqrt(this.scale / this.whole))); }

  // Return the nearest point within reach of a place on the canvas; -1 if there is none.
  nearest(x, y) {
    const [mapX, mapY] = this.placeOf(x, y);
    const reach = (this.dot / 2 + 6) / this.scale;
    const step = SIDE / BUCKETS;
    let [found, least] = [-1, reach * reach];
    for (let row = mapY - reach; row <= mapY + reach + step; row += step) {
      for (let column = mapX - reach; column <= mapX + reach + step; column += step) {
        for (const index of this.bucket(Math.min(column, mapX + reach), Math.min(row, mapY + reach))) {
          const distance = (this.xs[index] - mapX) ** 2 + (this.ys[index] - mapY) ** 2;
          if (distance < least) [found, least] = [index, distance];
        }
      }
    }
    return found;
  }

  draw() {
    if (!this.waiting) this.waiting = requestAnimationFrame(() => { this.waiting = 0; this.paint(); });
  }

  paint() {
    const ratio = devicePixelRatio || 1;
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    // those without a value first, so that others are drawn over them
    for (let group = this.order.length - 1; group >= 0; group--) this.paintGroup(context, group);
    context.globalAlpha = 1;
    context.strokeStyle = context.fillStyle = getComputedStyle(this.canvas).color;
    if (this.current >= 0) {
      context.lineWidth = 2;
      context.beginPath();
      context.arc(...this.pixels(this.xs[this.current], this.ys[this.current]), this.dot / 2 + 4, 0, 7);
      context.stroke();
    }
    if (this.shape.length > 1) this.paintShape(context);
  }

  paintGroup(context, group) {
    const { dot, left, top, scale, xs, ys, chosen } = this;
    const [width, height] = [this.canvas.clientWidth + dot, this.canvas.clientHeight + dot];
    context.fillStyle = getComputedStyle(this.colours[group]).color;
    const round = dot > 4;
    for (const index of this.order[group]) {
      const x = (xs[index] - left) * scale;
      const y = (ys[index] - top) * scale;
      if (x < -dot || y < -dot || x > width || y > height) continue;
      context.globalAlpha = chosen && !chosen.has(index) ? 0.2 : 0.85;
      if (!round) { context.fillRect(x - dot / 2, y - dot / 2, dot, dot); continue; }
      context.beginPath();
      context.arc(x, y, dot / 2, 0, 7);
      context.fill();
    }
  }

  paintShape(context) {
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.beginPath();
    const corners = this.shape.length === 2
      ? [this.shape[0], [this.shape[1][0], this.shape[0][1]], this.shape[1], [this.shape[0][0], this.shape[1][1]]]
      : this.shape;
    for (const [x, y] of corners) context.lineTo(...this.pixels(x, y));
    context.closePath();
    context.stroke();
    context.setLineDash([]);
  }

  pixels(x, y) { return [(x - this.left) * this.scale, (y - this.top) * this.scale]; }
}
