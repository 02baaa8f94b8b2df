import { describe, expect, it } from "vitest";
import {
  decode,
  findKeypoints,
  padToCells,
  suppress,
  type DenseMap,
  type Detection,
} from "../../src/engine/detection";

const SETTINGS: Detection = {
  nms_radius: 2,
  keypoint_threshold: 0.1,
  high_keypoint_threshold: 0,
  high_threshold_after: 0,
  remove_borders: 0,
  subpixel: true,
};

function scoreMap(width: number, height: number, values: Record<string, number>): DenseMap {
  const data = new Float32Array(width * height);
  for (const [place, value] of Object.entries(values)) {
    const [x, y] = place.split(",").map(Number);
    data[y * width + x] = value;
  }
  return { data, width, height };
}

/** Non-maximum suppression as published: dilations of the whole map. */
function published(map: DenseMap, radius: number): number[] {
  const { width, height } = map;
  const dilate = (values: number[]) =>
    values.map((_, place) => {
      let highest = 0;
      for (let dy = -radius; dy <= radius; dy++) {
        for (let dx = -radius; dx <= radius; dx++) {
          const [x, y] = [(place % width) + dx, Math.floor(place / width) + dy];
          if (x >= 0 && y >= 0 && x < width && y < height) {
            highest = Math.max(highest, values[y * width + x]);
          }
        }
      }
      return highest;
    });
  const maxima = (values: number[]) => {
    const highest = dilate(values);
    return values.map((value, place) => Number(value === highest[place]));
  };
  const scores = [...map.data];
  let mask = maxima(scores);
  for (let i = 0; i < 2; i++) {
    const near = dilate(mask);
    const fresh = maxima(scores.map((score, place) => (near[place] ? 0 : score)));
    mask = mask.map((value, place) => Number(value || (fresh[place] && !near[place])));
  }
  return mask.flatMap((value, place) => (value && scores[place] > 0.1 ? [place] : []));
}

/** Numbers in [0, 1) from a linear congruential generator. */
function numbers(count: number): Float32Array {
  let state = 1;
  return Float32Array.from({ length: count }, () => {
    state = (1103515245 * state + 12345) % 2147483648;
    return state / 2147483648;
  });
}

describe("suppress", () => {
  it.each([1, 2, 6])("equals the published suppression, radius %i", (radius) => {
    const map = { data: numbers(31 * 23).map((v) => Math.round(40 * v) / 40), width: 31, height: 23 };
    const found = suppress(map, radius, 0.1).sort((a, b) => a - b);
    expect(found).toEqual(published(map, radius));
    expect(found.length).toBeGreaterThan(5);
  });
});

describe("findKeypoints", () => {
  const map = scoreMap(16, 8, { "3,3": 0.5, "8,3": 0.9, "12,5": 0.5, "0,0": 0.8, "15,7": 0.05 });
  const places = (changes: Partial<Detection>, count = 10, size = { width: 16, height: 8 }) =>
    [...findKeypoints(map, size, { ...SETTINGS, ...changes }, count)].map((place) => [
      place % 16,
      Math.floor(place / 16),
    ]);

  it("sorts by score, equal scores in reading order", () => {
    expect(places({})).toEqual([[8, 3], [0, 0], [3, 3], [12, 5]]);
    expect(places({}, 2)).toEqual([[8, 3], [0, 0]]);
  });

  it("leaves out borders and padding", () => {
    expect(places({ remove_borders: 1 })).toEqual([[8, 3], [3, 3], [12, 5]]);
    expect(places({}, 10, { width: 12, height: 8 })).toEqual([[8, 3], [0, 0], [3, 3]]);
  });

  it("requires a higher score of later keypoints", () => {
    expect(places({ high_keypoint_threshold: 0.6, high_threshold_after: 1 })).toHaveLength(2);
    expect(places({ high_keypoint_threshold: 0.6, high_threshold_after: 3 })).toHaveLength(3);
  });
});

describe("decode", () => {
  const scores = scoreMap(16, 8, { "7,3": 0.4, "8,3": 0.8, "9,3": 0.6, "8,2": 0.2, "8,4": 0.2 });
  const descriptors = { data: Float32Array.of(3, 4, 0, 2), width: 2, height: 1 };

  it("places keypoints between pixels and mixes descriptors", () => {
    const size = { width: 16, height: 8 };
    const found = decode(scores, descriptors, size, SETTINGS, 3, 3);
    const [left, center, right] = [0.4, 0.8, 0.6].map(Math.log);
    const x = 8 + (right - left) / 2 / (2 * center - left - right);
    expect(found.points[0]).toBeCloseTo(x, 5);
    expect(found.points[1]).toBeCloseTo(3, 5);
    expect([...found.scores]).toEqual([Math.fround(0.8), 0, 0]);
    const weight = (x - 3.5) / 8;
    const mixed = [0.6 * (1 - weight), 0.8 * (1 - weight) + weight];
    const norm = Math.hypot(...mixed);
    expect(found.descriptors[0]).toBeCloseTo(mixed[0] / norm, 5);
    expect(found.descriptors[1]).toBeCloseTo(mixed[1] / norm, 5);
    expect([...found.descriptors.slice(2)]).toEqual([0, 0, 0, 0]);
  });

  it("finds nothing in a blank map", () => {
    const blank = scoreMap(16, 8, {});
    const found = decode(blank, descriptors, { width: 16, height: 8 }, SETTINGS, 2, 2);
    expect([...found.scores, ...found.points, ...found.descriptors].every((v) => v === 0)).toBe(true);
  });
});

describe("padToCells", () => {
  it("repeats the last row and column", () => {
    const padded = padToCells(Uint8Array.of(1, 2, 3, 4, 5, 6), 3, 2);
    expect([padded.width, padded.height]).toEqual([8, 8]);
    expect([...padded.data.subarray(0, 8)]).toEqual([1, 2, 3, 3, 3, 3, 3, 3]);
    expect([...padded.data.subarray(56)]).toEqual([4, 5, 6, 6, 6, 6, 6, 6]);
  });
});
