import { describe, expect, it } from "vitest";
import { FrameStatistics } from "../../src/pages/statistics";
import type { TrackedFrame } from "../../src/pages/tracker";

const frame = (extract: number): TrackedFrame =>
  ({ grabTime: 2, result: { times: { gray: 1, extract, match: 4, geometry: 0.5 } } }) as TrackedFrame;

describe("FrameStatistics", () => {
  it("has the mean times and the rate of each second", () => {
    const statistics = new FrameStatistics();
    const means: number[][] = [];
    for (let i = 0; i <= 20; i++) {
      const mean = statistics.add(100 * i, frame(i <= 10 ? 10 : 30), 3);
      if (mean) means.push(mean);
    }
    expect(means).toEqual([
      [2, 1, 10, 4, 0.5, 3, 10],
      [2, 1, 30, 4, 0.5, 3, 10],
    ]);
  });

  it("starts again after a pause", () => {
    const statistics = new FrameStatistics();
    statistics.add(0, frame(10), 3);
    statistics.reset();
    expect(statistics.add(60_000, frame(10), 3)).toBeNull();
    expect(statistics.add(61_000, frame(20), 3)).toEqual([2, 1, 20, 4, 0.5, 3, 1]);
  });
});
