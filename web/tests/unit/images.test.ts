import { describe, expect, it } from "vitest";
import { outline, warpOnto } from "../../src/drawing/warp";
import { layout, nearestMatch } from "../../src/drawing/pair-view";
import { confidenceColor } from "../../src/drawing/colors";
import { fittingSize } from "../../src/images/photo";
import { toGray } from "../../src/images/gray";
import type { Pixels } from "../../src/engine/protocol";

function image(width: number, height: number, value: (x: number, y: number) => number): Pixels {
  const data = new Uint8ClampedArray(4 * width * height).fill(255);
  for (let i = 0; i < width * height; i++) {
    data.fill(value(i % width, Math.floor(i / width)), 4 * i, 4 * i + 3);
  }
  return { data, width, height };
}

describe("toGray", () => {
  it("has OpenCV's values", () => {
    // cv2.cvtColor of these colors, COLOR_RGB2GRAY
    const colors = [255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 12, 200, 99, 0, 255, 255, 255, 9];
    expect([...toGray(Uint8ClampedArray.from(colors))]).toEqual([76, 150, 29, 132, 255]);
  });
});

describe("fittingSize", () => {
  it("keeps the ratio and never enlarges", () => {
    expect(fittingSize(4000, 3000, 640)).toEqual([640, 480]);
    expect(fittingSize(320, 200, 640)).toEqual([320, 200]);
    expect(fittingSize(10000, 8, 640)).toEqual([640, 1]);
  });
});

describe("warpOnto", () => {
  it("copies pixels with the identity", () => {
    const source = image(9, 7, (x, y) => 20 * x + y);
    const target = image(9, 7, () => 0);
    warpOnto(target, source, Float64Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1));
    expect(target.data).toEqual(source.data);
  });

  it("interpolates between pixels and leaves the rest", () => {
    const source = image(8, 8, (x) => 10 * x);
    const target = image(16, 8, () => 7);
    warpOnto(target, source, Float64Array.of(1, 0, 4.5, 0, 1, 0, 0, 0, 1));
    const row = (x: number) => target.data[4 * (2 * 16 + x)];
    expect([row(3), row(5), row(8), row(13)]).toEqual([7, 5, 35, 7]);
  });

  it("mixes colors by opacity", () => {
    const target = image(4, 4, () => 100);
    warpOnto(target, image(4, 4, () => 200), Float64Array.of(1, 0, 0, 0, 1, 0, 0, 0, 1), 0.25);
    expect(target.data[0]).toBe(125);
  });

  it("draws nothing for a singular homography", () => {
    const target = image(4, 4, () => 100);
    warpOnto(target, image(4, 4, () => 200), new Float64Array(9));
    expect(target.data[0]).toBe(100);
  });
});

describe("outline", () => {
  it("has the edges of the image, or null behind the horizon", () => {
    const corners = outline(4, 2, Float64Array.of(2, 0, 0, 0, 2, 0, 0, 0, 1));
    expect(corners).toEqual([[-1, -1], [7, -1], [7, 3], [-1, 3]]);
    expect(outline(4, 2, Float64Array.of(1, 0, 0, 0, 1, 0, -1, 0, 1))).toBeNull();
  });
});

describe("the view of a pair", () => {
  it("gives both images the same height side by side, the same width stacked", () => {
    const sizes: [[number, number], [number, number]] = [[600, 400], [640, 480]];
    const beside = layout(sizes, 1008, false);
    expect(600 * beside.placed[0].scale + 640 * beside.placed[1].scale).toBeCloseTo(1000);
    expect(400 * beside.placed[0].scale).toBeCloseTo(480 * beside.placed[1].scale);
    const stacked = layout(sizes, 320, true);
    expect(640 * stacked.placed[1].scale).toBeCloseTo(320);
    expect(stacked.placed[1].y).toBeGreaterThan(400 * stacked.placed[0].scale);
  });

  it("finds the match near a place, in either image", () => {
    const matched = {
      points0: Float32Array.of(10, 10, 50, 50),
      points1: Float32Array.of(20, 90, 70, 20),
      confidence: Float32Array.of(1, 1),
      index0: Int32Array.of(0, 1),
    };
    const pair = { images: [null, null] as never, matched };
    const placed = [{ x: 0, y: 0, scale: 1 }, { x: 108, y: 0, scale: 1 }] as never;
    expect(nearestMatch(pair, placed, 52, 52)).toBe(1);
    expect(nearestMatch(pair, placed, 130, 88)).toBe(0);
    expect(nearestMatch(pair, placed, 50, 95)).toBe(-1);
  });
});

describe("confidenceColor", () => {
  it("clips", () => {
    expect(confidenceColor(-1)).toBe(confidenceColor(0));
    expect(confidenceColor(2)).toBe(confidenceColor(1));
    expect(confidenceColor(0)).not.toBe(confidenceColor(1));
  });
});
