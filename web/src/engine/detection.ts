/**
 * Keypoints and descriptors from the two maps of an extractor's network.
 *
 * The same steps as `matching/keypoints.py` and `matching/nms.py` of the Python package: exact
 * non-maximum suppression with two recoveries (SuperPoint, DeTone et al. 2018), the parabola through
 * the log scores, and bilinear descriptors. In a graph they take longer than the network.
 */
import type { Keypoints } from "./protocol";

/** Settings of a model, as in its config.json. */
export interface Detection {
  nms_radius: number;
  keypoint_threshold: number;
  high_keypoint_threshold: number;
  high_threshold_after: number;
  remove_borders: number;
  subpixel: boolean;
}

/** A map of one or more channels, row by row. */
export interface DenseMap {
  data: Float32Array;
  width: number;
  height: number;
}

/** Pixels of a cell in each direction. */
export const CELL = 8;
const RECOVERIES = 2;
const LEAST = 1e-8;

/**
 * Maxima of a score map after non-maximum suppression.
 *
 * @returns their places, row by row, in no order
 */
export function suppress(scores: DenseMap, radius: number, threshold: number): number[] {
  const { width, height } = scores;
  const alive = scores.data.slice();
  let candidates: number[] = [];
  for (let place = 0; place < alive.length; place++) {
    if (alive[place] > threshold) candidates.push(place);
  }
  if (radius === 0) return candidates;
  const found: number[] = [];
  for (let pass = 0; pass <= RECOVERIES; pass++) {
    const first = found.length;
    for (const place of candidates) {
      if (isMaximum(alive, width, height, place, radius)) found.push(place);
    }
    for (let i = first; i < found.length; i++) clear(alive, width, height, found[i], radius);
    if (found.length === first) break;
    candidates = candidates.filter((place) => alive[place] > 0);
  }
  return found;
}

function isMaximum(
  map: Float32Array,
  width: number,
  height: number,
  place: number,
  radius: number,
): boolean {
  const value = map[place];
  // An adjacent pixel is the most likely to be higher.
  if (map[place - 1] > value && place % width > 0) return false;
  if (map[place + 1] > value && (place + 1) % width > 0) return false;
  if (map[place - width] > value || map[place + width] > value) return false;
  const y = Math.floor(place / width);
  const x = place - y * width;
  const left = Math.max(x - radius, 0);
  const right = Math.min(x + radius, width - 1);
  const bottom = Math.min(y + radius, height - 1);
  for (let row = Math.max(y - radius, 0); row <= bottom; row++) {
    const end = row * width + right;
    for (let other = row * width + left; other <= end; other++) {
      if (map[other] > value) return false;
    }
  }
  return true;
}

function clear(map: Float32Array, width: number, height: number, place: number, radius: number): void {
  const y = Math.floor(place / width);
  const x = place - y * width;
  const left = Math.max(x - radius, 0);
  const right = Math.min(x + radius, width - 1) + 1;
  const bottom = Math.min(y + radius, height - 1);
  for (let row = Math.max(y - radius, 0); row <= bottom; row++) {
    map.fill(0, row * width + left, row * width + right);
  }
}

/**
 * The keypoints of a score map, strongest first; equal scores in reading order.
 *
 * @param size width and height of the image; keypoints in the padding are left out
 * @param count maximum number of keypoints
 * @returns places in the map
 */
export function findKeypoints(
  scores: DenseMap,
  size: { width: number; height: number },
  settings: Detection,
  count: number,
): Uint32Array {
  const border = settings.remove_borders;
  const inside = suppress(scores, settings.nms_radius, settings.keypoint_threshold).filter((place) => {
    const x = place % scores.width;
    const y = (place - x) / scores.width;
    return x >= border && y >= border && x < size.width - border && y < size.height - border;
  });
  const values = scores.data;
  const sorted = Uint32Array.from(inside).sort((a, b) => values[b] - values[a] || a - b);
  const high = sorted.filter((place) => values[place] > settings.high_keypoint_threshold).length;
  return sorted.subarray(0, Math.min(count, Math.max(settings.high_threshold_after, high)));
}

/** Position of the vertex of a parabola through three log scores, in [−0.5, 0.5]. */
function vertex(before: number, center: number, after: number): number {
  const [b, c, a] = [before, center, after].map((score) => Math.log(Math.max(score, LEAST)));
  return Math.min(Math.max((a - b) / 2 / Math.max(2 * c - b - a, 1e-6), -0.5), 0.5);
}

/**
 * Keypoints and descriptors from the maps of the network.
 *
 * @param descriptors (H / 8, W / 8, D), not normalized
 * @param places number of places of the result; unused ones have score 0
 * @param count maximum number of keypoints, at most `places`
 */
export function decode(
  scores: DenseMap,
  descriptors: DenseMap,
  size: { width: number; height: number },
  settings: Detection,
  places: number,
  count: number,
): Keypoints & { descriptors: Float32Array } {
  const dim = descriptors.data.length / (descriptors.width * descriptors.height);
  const found = findKeypoints(scores, size, settings, Math.min(count, places));
  const result = {
    points: new Float32Array(2 * places),
    scores: new Float32Array(places),
    descriptors: new Float32Array(places * dim),
  };
  const { data, width, height } = scores;
  found.forEach((place, i) => {
    const center = data[place];
    let x = place % width;
    let y = (place - x) / width;
    if (settings.subpixel) {
      const left = data[x > 0 ? place - 1 : place];
      const right = data[x < width - 1 ? place + 1 : place];
      const above = data[y > 0 ? place - width : place];
      const below = data[y < height - 1 ? place + width : place];
      x += vertex(left, center, right);
      y += vertex(above, center, below);
    }
    result.points[2 * i] = x;
    result.points[2 * i + 1] = y;
    result.scores[i] = center;
    sample(descriptors, dim, x, y, result.descriptors.subarray(i * dim, (i + 1) * dim));
  });
  return result;
}

/** The descriptor at a position, bilinearly between the normalized descriptors of four cells. */
function sample(map: DenseMap, dim: number, x: number, y: number, out: Float32Array): void {
  const along = (position: number, cells: number): [number, number, number] => {
    const at = Math.min(Math.max((position - (CELL - 1) / 2) / CELL, 0), cells - 1);
    const low = Math.min(Math.floor(at), Math.max(cells - 2, 0));
    return [low, Math.min(low + 1, cells - 1), at - low];
  };
  const [x0, x1, fx] = along(x, map.width);
  const [y0, y1, fy] = along(y, map.height);
  for (const [row, column, weight] of [
    [y0, x0, (1 - fy) * (1 - fx)],
    [y0, x1, (1 - fy) * fx],
    [y1, x0, fy * (1 - fx)],
    [y1, x1, fy * fx],
  ]) {
    const start = (row * map.width + column) * dim;
    const scale = weight / length(map.data, start, dim);
    for (let d = 0; d < dim; d++) out[d] += scale * map.data[start + d];
  }
  const scale = 1 / length(out, 0, dim);
  for (let d = 0; d < dim; d++) out[d] *= scale;
}

function length(values: Float32Array, start: number, count: number): number {
  let square = 0;
  for (let i = start; i < start + count; i++) square += values[i] * values[i];
  return Math.max(Math.sqrt(square), 1e-12);
}

/** Repeat the last row and column of a gray image until both sides are multiples of 8. */
export function padToCells(
  gray: Uint8Array<ArrayBuffer>,
  width: number,
  height: number,
): { data: Uint8Array<ArrayBuffer>; width: number; height: number } {
  const [wide, high] = [width, height].map((side) => Math.ceil(side / CELL) * CELL);
  if (wide === width && high === height) return { data: gray, width, height };
  const data = new Uint8Array(wide * high);
  for (let y = 0; y < high; y++) {
    const row = Math.min(y, height - 1) * width;
    data.set(gray.subarray(row, row + width), y * wide);
    data.fill(gray[row + width - 1], y * wide + width, (y + 1) * wide);
  }
  return { data, width: wide, height: high };
}
