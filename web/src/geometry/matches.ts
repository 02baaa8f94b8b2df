import type { MatchResult } from "../engine/protocol";

export interface MatchedPoints {
  /** x, y, x, y, … of the matches in image 0 and image 1, px. */
  points0: Float32Array;
  points1: Float32Array;
  confidence: Float32Array;
  /** Keypoint of image 0 of each match. */
  index0: Int32Array;
}

/** The points of all matches whose confidence reaches a minimum. */
export function matchedPoints(result: MatchResult, minConfidence = 0): MatchedPoints {
  const index0 = Int32Array.from(result.matches.keys()).filter(
    (i) => result.matches[i] >= 0 && result.confidence[i] >= minConfidence,
  );
  const points0 = new Float32Array(2 * index0.length);
  const points1 = new Float32Array(2 * index0.length);
  const confidence = new Float32Array(index0.length);
  index0.forEach((from, place) => {
    const to = result.matches[from];
    points0.set(result.keypoints0.points.subarray(2 * from, 2 * from + 2), 2 * place);
    points1.set(result.keypoints1.points.subarray(2 * to, 2 * to + 2), 2 * place);
    confidence[place] = result.confidence[from];
  });
  return { points0, points1, confidence, index0 };
}
