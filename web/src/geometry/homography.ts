/**
 * Robust homography: RANSAC over four-point samples (Fischler and Bolles 1981) with the truncated
 * cost of MSAC (Torr and Zisserman 2000) and local optimization by iteratively reweighted
 * Gauss-Newton steps (Chum et al. 2003).
 *
 * Points are arrays of x, y, x, y, … in pixels.
 */
import { solveInPlace } from "./linear";
import { determinant, invert, multiply, type Matrix3 } from "./matrix3";

export interface Homography {
  /** Maps image 0 to image 1. */
  model: Matrix3;
  /** One entry a match: 1 for inliers. */
  inliers: Uint8Array;
  numInliers: number;
}

export interface HomographyOptions {
  /** Maximum transfer error of an inlier in image 1, px. */
  threshold?: number;
  /** Probability of at least one sample without wrong matches. */
  confidence?: number;
  maxIterations?: number;
  seed?: number;
}

/** Default maximum error of an inlier, px: the graphs do not refine positions on the images. */
export function inlierThreshold(width: number, height: number): number {
  return Math.max(3, Math.max(width, height) / 128);
}

const MIN_MATCHES = 4;
const REFINEMENTS = 6; // Gauss-Newton steps of one local optimization

/** Estimate the homography of matches, or null if no sample of them gives one. */
export function estimateHomography(
  points0: Float32Array,
  points1: Float32Array,
  options: HomographyOptions = {},
): Homography | null {
  const { threshold = 3, confidence = 0.999, maxIterations = 1000, seed = 1 } = options;
  const count = points0.length / 2;
  if (points1.length !== points0.length) {
    throw new RangeError("points0 and points1 must have the same length");
  }
  if (count < MIN_MATCHES) return null;
  const frame0 = normalization(points0);
  const frame1 = normalization(points1);
  const a = transformed(points0, frame0);
  const b = transformed(points1, frame1);
  const limit = (threshold * frame1[0]) ** 2;
  const random = generator(seed);
  const sample = new Int32Array(4);
  let best: Matrix3 | null = null;
  let bestCost = Infinity;
  let needed = maxIterations;
  for (let i = 0; i < needed; i++) {
    drawSample(sample, count, random);
    const candidate = fromSample(a, b, sample);
    if (candidate === null || cost(candidate, a, b, limit, bestCost) >= bestCost) continue;
    best = optimized(candidate, a, b, limit);
    bestCost = cost(best, a, b, limit, Infinity);
    needed = Math.min(maxIterations, iterations(countInliers(best, a, b, limit) / count, confidence));
  }
  if (best === null) return null;
  const inliers = new Uint8Array(count);
  const numInliers = countInliers(best, a, b, limit, inliers);
  const inverse = invert(frame1);
  if (numInliers < MIN_MATCHES || inverse === null) return null;
  const model = multiply(multiply(inverse, best), frame0);
  const scale = model[8];
  if (!(Math.abs(scale) > 1e-12)) return null;
  return { model: model.map((value) => value / scale), inliers, numInliers };
}

/** Number of samples until one is free of wrong matches, with a probability. */
function iterations(inlierRatio: number, confidence: number): number {
  const good = Math.min(inlierRatio ** 4, 1 - 1e-9);
  return good < 1e-9 ? Infinity : Math.ceil(Math.log(1 - confidence) / Math.log(1 - good));
}

/** The map to mean 0 and mean distance √2 (Hartley 1997). */
function normalization(points: Float32Array): Matrix3 {
  const count = points.length / 2;
  let [x, y, spread] = [0, 0, 0];
  for (let i = 0; i < points.length; i += 2) {
    x += points[i] / count;
    y += points[i + 1] / count;
  }
  for (let i = 0; i < points.length; i += 2) {
    spread += Math.hypot(points[i] - x, points[i + 1] - y) / count;
  }
  const scale = Math.SQRT2 / Math.max(spread, 1e-9);
  return Float64Array.of(scale, 0, -scale * x, 0, scale, -scale * y, 0, 0, 1);
}

function transformed(points: Float32Array, frame: Matrix3): Float64Array {
  const result = new Float64Array(points.length);
  for (let i = 0; i < points.length; i += 2) {
    result[i] = frame[0] * points[i] + frame[2];
    result[i + 1] = frame[4] * points[i + 1] + frame[5];
  }
  return result;
}

/** Uniform numbers in [0, 1) from a seed (xorshift32). */
function generator(seed: number): () => number {
  let state = seed >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 2 ** 32;
  };
}

function drawSample(sample: Int32Array, count: number, random: () => number): void {
  for (let i = 0; i < 4; i++) {
    do sample[i] = Math.floor(random() * count);
    while (sample.indexOf(sample[i]) < i);
  }
}

/** The homography of four matches, or null if they are degenerate or change their orientation. */
function fromSample(a: Float64Array, b: Float64Array, sample: Int32Array): Matrix3 | null {
  for (let skipped = 0; skipped < 4; skipped++) {
    const [i, j, k] = sample.filter((_, place) => place !== skipped);
    const areas = [area(a, i, j, k), area(b, i, j, k)];
    if (!(areas[0] * areas[1] > 0) || Math.min(...areas.map(Math.abs)) < 1e-4) return null;
  }
  const matrix = new Float64Array(64);
  const h = new Float64Array(8);
  sample.forEach((match, place) => {
    const [x, y, u, v] = [a[2 * match], a[2 * match + 1], b[2 * match], b[2 * match + 1]];
    matrix.set([x, y, 1, 0, 0, 0, -u * x, -u * y], 16 * place);
    matrix.set([0, 0, 0, x, y, 1, -v * x, -v * y], 16 * place + 8);
    h[2 * place] = u;
    h[2 * place + 1] = v;
  });
  if (!solveInPlace(matrix, h)) return null;
  const model = Float64Array.of(...h, 1);
  return determinant(model) > 1e-9 ? model : null;
}

function area(p: Float64Array, i: number, j: number, k: number): number {
  const [x, y] = [p[2 * i], p[2 * i + 1]];
  return (p[2 * j] - x) * (p[2 * k + 1] - y) - (p[2 * k] - x) * (p[2 * j + 1] - y);
}

/** Squared transfer error of a match in image 1; Infinity behind the horizon. */
function squaredError(m: Matrix3, a: Float64Array, b: Float64Array, i: number): number {
  const [x, y] = [a[i], a[i + 1]];
  const w = m[6] * x + m[7] * y + m[8];
  if (!(w > 1e-9)) return Infinity;
  const u = (m[0] * x + m[1] * y + m[2]) / w - b[i];
  const v = (m[3] * x + m[4] * y + m[5]) / w - b[i + 1];
  return u * u + v * v;
}

/** Sum of the truncated squared errors; stops once it exceeds `maximum`. */
function cost(
  m: Matrix3,
  a: Float64Array,
  b: Float64Array,
  limit: number,
  maximum: number,
): number {
  let sum = 0;
  for (let i = 0; i < a.length && sum < maximum; i += 2) {
    sum += Math.min(squaredError(m, a, b, i), limit);
  }
  return sum;
}

function countInliers(
  m: Matrix3,
  a: Float64Array,
  b: Float64Array,
  limit: number,
  inliers?: Uint8Array,
): number {
  let count = 0;
  for (let i = 0; i < a.length; i += 2) {
    if (squaredError(m, a, b, i) > limit) continue;
    count++;
    if (inliers) inliers[i / 2] = 1;
  }
  return count;
}

/** The better of a model and its refinement with Tukey weights, wide at first. */
function optimized(start: Matrix3, a: Float64Array, b: Float64Array, limit: number): Matrix3 {
  let model = start;
  let best = start;
  let bestCost = cost(start, a, b, limit, Infinity);
  for (let i = 0; i < REFINEMENTS; i++) {
    const next = gaussNewtonStep(model, a, b, i < 2 ? 9 * limit : limit);
    if (next === null) break;
    model = next;
    const newCost = cost(model, a, b, limit, Infinity);
    if (newCost < bestCost) [best, bestCost] = [model, newCost];
  }
  return best;
}

function gaussNewtonStep(
  m: Matrix3,
  a: Float64Array,
  b: Float64Array,
  limit: number,
): Matrix3 | null {
  const normal = new Float64Array(64);
  const step = new Float64Array(8);
  const row = new Float64Array(8);
  for (let i = 0; i < a.length; i += 2) {
    const squared = squaredError(m, a, b, i);
    if (squared >= limit) continue;
    const weight = (1 - squared / limit) ** 2;
    const [x, y] = [a[i], a[i + 1]];
    const w = 1 / (m[6] * x + m[7] * y + m[8]);
    const u = (m[0] * x + m[1] * y + m[2]) * w;
    const v = (m[3] * x + m[4] * y + m[5]) * w;
    row.set([x * w, y * w, w, 0, 0, 0, -u * x * w, -u * y * w]);
    accumulate(normal, step, row, weight, b[i] - u);
    row.set([0, 0, 0, x * w, y * w, w, -v * x * w, -v * y * w]);
    accumulate(normal, step, row, weight, b[i + 1] - v);
  }
  if (!solveInPlace(normal, step)) return null;
  const model = m.map((value, place) => (place < 8 ? value + step[place] : value));
  return determinant(model) > 1e-9 ? model : null;
}

function accumulate(
  normal: Float64Array,
  right: Float64Array,
  row: Float64Array,
  weight: number,
  residual: number,
): void {
  for (let i = 0; i < 8; i++) {
    const factor = weight * row[i];
    if (factor === 0) continue;
    for (let j = 0; j < 8; j++) normal[8 * i + j] += factor * row[j];
    right[i] += factor * residual;
  }
}
