import type { Pixels } from "../engine/protocol";
import { invert, project, type Matrix3 } from "../geometry/matrix3";

/**
 * Draw an image onto another through a homography, with bilinear interpolation.
 *
 * @param target changed in place
 * @param source image to draw
 * @param sourceToTarget homography of pixel positions
 * @param opacity of the drawn image, in [0, 1]
 */
export function warpOnto(
  target: Pixels,
  source: Pixels,
  sourceToTarget: Matrix3,
  opacity = 1,
): void {
  const inverse = invert(sourceToTarget);
  if (inverse === null) return;
  // Homogeneous coordinates have a sign: positive where the image is in front of the horizon.
  const sign = inverseSign(sourceToTarget, inverse, source);
  const [left, top, right, bottom] = bounds(target, source, sourceToTarget);
  const [lastX, lastY] = [source.width - 1, source.height - 1];
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const w = sign * (inverse[6] * x + inverse[7] * y + inverse[8]);
      if (w <= 1e-12) continue;
      const u = (sign * (inverse[0] * x + inverse[1] * y + inverse[2])) / w;
      const v = (sign * (inverse[3] * x + inverse[4] * y + inverse[5])) / w;
      if (u < -0.5 || v < -0.5 || u > lastX + 0.5 || v > lastY + 0.5) continue;
      const cu = Math.min(Math.max(u, 0), lastX);
      const cv = Math.min(Math.max(v, 0), lastY);
      blend(target.data, 4 * (y * target.width + x), source, cu, cv, opacity);
    }
  }
}

function inverseSign(forward: Matrix3, inverse: Matrix3, source: Pixels): number {
  const center = [(source.width - 1) / 2, (source.height - 1) / 2];
  const mapped = project(forward, center[0], center[1]);
  if (mapped === null) return 1;
  return inverse[6] * mapped[0] + inverse[7] * mapped[1] + inverse[8] > 0 ? 1 : -1;
}

/** Rectangle of the target that contains the drawn image: all of it if a corner has no image. */
function bounds(target: Pixels, source: Pixels, forward: Matrix3): number[] {
  const corners = outline(source.width, source.height, forward);
  if (corners === null) return [0, 0, target.width, target.height];
  const x = corners.map((corner) => corner[0]);
  const y = corners.map((corner) => corner[1]);
  return [
    Math.max(0, Math.floor(Math.min(...x))),
    Math.max(0, Math.floor(Math.min(...y))),
    Math.min(target.width, Math.ceil(Math.max(...x)) + 1),
    Math.min(target.height, Math.ceil(Math.max(...y)) + 1),
  ];
}

/** Corners of an image mapped by a homography, or null if one is behind the horizon. */
export function outline(width: number, height: number, m: Matrix3): [number, number][] | null {
  const [right, bottom] = [width - 0.5, height - 0.5];
  const corners = [
    project(m, -0.5, -0.5),
    project(m, right, -0.5),
    project(m, right, bottom),
    project(m, -0.5, bottom),
  ];
  return corners.every((corner) => corner !== null) ? corners : null;
}

function blend(
  target: Uint8ClampedArray,
  at: number,
  source: Pixels,
  u: number,
  v: number,
  opacity: number,
): void {
  const x = Math.min(Math.floor(u), Math.max(source.width - 2, 0));
  const y = Math.min(Math.floor(v), Math.max(source.height - 2, 0));
  const [fx, fy] = [u - x, v - y];
  const right = source.width > 1 ? 4 : 0;
  const below = source.height > 1 ? 4 * source.width : 0;
  const from = 4 * (y * source.width + x);
  for (let c = 0; c < 3; c++) {
    const d = source.data;
    const above = d[from + c] * (1 - fx) + d[from + right + c] * fx;
    const under = d[from + below + c] * (1 - fx) + d[from + below + right + c] * fx;
    const value = above * (1 - fy) + under * fy;
    target[at + c] = target[at + c] * (1 - opacity) + value * opacity;
  }
}
