import { describe, expect, it } from "vitest";
import { estimateHomography } from "../../src/geometry/homography";
import { invert, multiply, project, resizeMap } from "../../src/geometry/matrix3";

const TRUTH = Float64Array.of(0.9, 0.12, 20, -0.08, 1.05, -14, 2e-4, -1e-4, 1);

function uniform(seed: number): () => number {
  let state = seed;
  return () => (state = (state * 48271) % 2147483647) / 2147483647;
}

function matches(count: number, wrong: number, noise: number, seed: number) {
  const random = uniform(seed);
  const points0 = new Float32Array(2 * count);
  const points1 = new Float32Array(2 * count);
  for (let i = 0; i < count; i++) {
    const [x, y] = [640 * random(), 480 * random()];
    const mapped = project(TRUTH, x, y)!;
    points0.set([x, y], 2 * i);
    const target =
      i < wrong
        ? [640 * random(), 480 * random()]
        : mapped.map((value) => value + noise * (random() + random() - 1));
    points1.set(target, 2 * i);
  }
  return { points0, points1 };
}

function cornerError(model: Float64Array): number {
  const corners = [0, 0, 639, 0, 639, 479, 0, 479];
  let sum = 0;
  for (let i = 0; i < 8; i += 2) {
    const [x, y] = project(model, corners[i], corners[i + 1])!;
    const [u, v] = project(TRUTH, corners[i], corners[i + 1])!;
    sum += Math.hypot(x - u, y - v) / 4;
  }
  return sum;
}

describe("estimateHomography", () => {
  it("is exact on exact matches", () => {
    const { points0, points1 } = matches(40, 0, 0, 3);
    const result = estimateHomography(points0, points1)!;
    expect(cornerError(result.model)).toBeLessThan(1e-3);
    expect(result.numInliers).toBe(40);
    expect(result.model[8]).toBe(1);
  });

  it.each([1, 2, 3, 4, 5])("survives 60 %% of wrong matches (seed %i)", (seed) => {
    const { points0, points1 } = matches(250, 150, 1.5, seed);
    const result = estimateHomography(points0, points1)!;
    expect(cornerError(result.model)).toBeLessThan(1.5);
    expect(result.inliers.slice(150).reduce((a, b) => a + b, 0)).toBeGreaterThan(97);
    expect(result.inliers.slice(0, 150).reduce((a, b) => a + b, 0)).toBeLessThan(6);
    expect(result.numInliers).toBe(result.inliers.reduce((a, b) => a + b, 0));
  });

  it("gives the same result for the same seed", () => {
    const { points0, points1 } = matches(80, 40, 1, 9);
    const models = [1, 2].map(() => estimateHomography(points0, points1)!.model);
    expect(models[0]).toEqual(models[1]);
  });

  it("returns null for too few, equal, collinear or non-finite points", () => {
    expect(estimateHomography(new Float32Array(6), new Float32Array(6))).toBeNull();
    expect(estimateHomography(new Float32Array(40), new Float32Array(40))).toBeNull();
    const line = Float32Array.from({ length: 40 }, (_, i) => Math.floor(i / 2));
    expect(estimateHomography(line, line)).toBeNull();
    const bad = new Float32Array(40).fill(NaN);
    expect(estimateHomography(bad, bad)).toBeNull();
  });

  it("rejects a mirror image", () => {
    const { points0 } = matches(50, 0, 0, 4);
    const mirrored = points0.map((value, i) => (i % 2 ? value : 640 - value));
    const result = estimateHomography(points0, mirrored);
    expect(result === null || result.numInliers < 10).toBe(true);
  });

  it("names points of different lengths", () => {
    expect(() => estimateHomography(new Float32Array(8), new Float32Array(10))).toThrow("points1");
  });
});

describe("matrix3", () => {
  it("inverts", () => {
    const product = multiply(TRUTH, invert(TRUTH)!);
    product.forEach((value, i) => expect(value).toBeCloseTo(i % 4 ? 0 : 1, 9));
    expect(invert(new Float64Array(9))).toBeNull();
  });

  it("maps pixel edges to pixel edges", () => {
    expect(project(resizeMap(0.5, 0.5), -0.5, 639.5)).toEqual([-0.5, 319.5]);
  });

  it("has no image of points behind the horizon", () => {
    expect(project(Float64Array.of(1, 0, 0, 0, 1, 0, 1, 0, -5), 2, 0)).toBeNull();
  });
});
