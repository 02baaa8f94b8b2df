/** Matches as files. All positions are pixels of the images that the user gave. */
import type { Keypoints, MatchResult } from "../engine/protocol";
import type { Homography } from "../geometry/homography";
import { invert, multiply, project, resizeMap, type Matrix3 } from "../geometry/matrix3";
import { npz } from "./npz";

export interface ImageInfo {
  name: string;
  /** Size of the file, px. */
  width: number;
  height: number;
  /** Size at which it was matched, px. */
  matchedWidth: number;
  matchedHeight: number;
}

export interface PairResult {
  model: string;
  images: [ImageInfo, ImageInfo];
  result: MatchResult;
  minConfidence: number;
  /** Of the matches with the minimum confidence, in matched pixels. */
  homography: Homography | null;
}

export function toJson({ model, images, result, minConfidence, homography }: PairResult): string {
  const points = [result.keypoints0, result.keypoints1].map((k, i) => original(k, images[i]));
  let place = 0;
  const matches: object[] = [];
  result.matches.forEach((to, from) => {
    if (to < 0 || result.confidence[from] < minConfidence) return;
    matches.push({
      point0: rounded(points[0].subarray(2 * from, 2 * from + 2)),
      point1: rounded(points[1].subarray(2 * to, 2 * to + 2)),
      confidence: Number(result.confidence[from].toFixed(4)),
      inlier: homography ? homography.inliers[place] === 1 : null,
    });
    place++;
  });
  const [image0, image1] = images.map(({ name, width, height }) => ({ name, width, height }));
  const H_0to1 = homography ? rows(originalHomography(homography.model, images)) : null;
  return JSON.stringify({ model, image0, image1, H_0to1, matches }, null, 1);
}

/** SuperGlue's match file: keypoints0, keypoints1, matches, match_confidence. */
export function toNpz({ images, result, minConfidence }: PairResult): Uint8Array<ArrayBuffer> {
  const count0 = result.keypoints0.scores.length;
  const count1 = result.keypoints1.scores.length;
  const kept = Array.from(result.matches, (to, i) =>
    to >= 0 && result.confidence[i] >= minConfidence ? to : -1,
  );
  const confidence = result.confidence.map((value, i) => (kept[i] >= 0 ? value : 0));
  return npz({
    keypoints0: { data: original(result.keypoints0, images[0]), shape: [count0, 2] },
    keypoints1: { data: original(result.keypoints1, images[1]), shape: [count1, 2] },
    matches: { data: BigInt64Array.from(kept, BigInt), shape: [count0] },
    match_confidence: { data: confidence, shape: [count0] },
  });
}

function toOriginal(image: ImageInfo): Matrix3 {
  return resizeMap(image.width / image.matchedWidth, image.height / image.matchedHeight);
}

function original({ points }: Keypoints, image: ImageInfo): Float32Array {
  const map = toOriginal(image);
  const mapped = new Float32Array(points.length);
  for (let i = 0; i < points.length; i += 2) {
    mapped.set(project(map, points[i], points[i + 1]) ?? [NaN, NaN], i);
  }
  return mapped;
}

function originalHomography(model: Matrix3, images: [ImageInfo, ImageInfo]): Matrix3 {
  const fromOriginal = invert(toOriginal(images[0]));
  if (fromOriginal === null) throw new RangeError("an image has no size");
  const product = multiply(multiply(toOriginal(images[1]), model), fromOriginal);
  return product.map((value) => value / product[8]);
}

const rows = (m: Matrix3): number[][] => [0, 3, 6].map((i) => [...m.subarray(i, i + 3)]);
const rounded = (values: Float32Array): number[] => Array.from(values, (v) => Number(v.toFixed(3)));
