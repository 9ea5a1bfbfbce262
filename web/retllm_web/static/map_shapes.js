// Areas of a map: boxes and lines around an area, as lists of points with numbers of two decimals.
const MOST = 60;
const EPSILON = 1e-6;
const round = (value) => Math.round(Math.min(100, Math.max(0, value)) * 100) / 100;

export function boxOf([x1, y1], [x2, y2]) {
  const [left, right] = [x1, x2].map(round).sort((a, b) => a - b);
  const [top, bottom] = [y1, y2].map(round).sort((a, b) => a - b);
  return [[left, top], [right, bottom]];
}

// A line that was drawn has hundreds of points, and a filter has room for fewer.
export function lineOf(points) {
  const step = Math.max(1, points.length / MOST);
  const kept = [];
  for (let place = 0; place < points.length; place += step) kept.push(points[Math.floor(place)].map(round));
  return kept;
}

export const numbersOf = (shape) => shape.flat().map((value) => value.toFixed(2)).join(", ");

// Return whether a point is on the line between two others, as exactly as PostgreSQL compares.
function isOn([x1, y1], [x2, y2], x, y) {
  const length = Math.hypot(x2 - x1, y2 - y1);
  const along = length && ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / (length * length);
  const nearest = Math.min(1, Math.max(0, along));
  return Math.hypot(x - x1 - nearest * (x2 - x1), y - y1 - nearest * (y2 - y1)) <= EPSILON;
}

// Return whether a point is inside a shape or on its line: of two points a box, of more the area within the line
// (even-odd rule). The filter of the selection counts the same points.
export function contains(shape, x, y) {
  if (shape.length === 2) return x >= shape[0][0] && x <= shape[1][0] && y >= shape[0][1] && y <= shape[1][1];
  let inside = false;
  for (let one = 0, other = shape.length - 1; one < shape.length; other = one++) {
    const [x1, y1] = shape[one];
    const [x2, y2] = shape[other];
    if (isOn(shape[one], shape[other], x, y)) return true;
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
}
