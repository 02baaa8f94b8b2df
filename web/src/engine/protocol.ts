/** Messages between the page and its worker. */
import type { Homography } from "../geometry/homography";
import type { Detection } from "./detection";

/** Pixels of an image: RGBA, row by row. */
export interface Pixels {
  data: Uint8ClampedArray<ArrayBuffer>;
  width: number;
  height: number;
}

/** Keypoints of an image, strongest first. */
export interface Keypoints {
  /** x, y, x, y, … in pixels; (0, 0) is the center of the top-left pixel. */
  points: Float32Array;
  scores: Float32Array;
}

/** Keypoints of an image with a fixed number of places; unused places have score 0. */
export interface Features extends Keypoints {
  /** One row of width D per place; (K, D). */
  descriptors: Float32Array;
  width: number;
  height: number;
}

/** Duration of each stage, ms. */
export interface StageTimes {
  gray: number;
  extract: number;
  match: number;
  geometry: number;
}

export interface MatchResult {
  keypoints0: Keypoints;
  keypoints1: Keypoints;
  /** Index in keypoints1 for each of keypoints0; −1 for none. */
  matches: Int32Array;
  /** Probability of each match; 0 for none. */
  confidence: Float32Array;
  times: StageTimes;
}

/** A frame matched with the reference. */
export interface TrackResult extends MatchResult {
  /** Of the matches in their order, unmatched keypoints left out. */
  homography: Homography | null;
}

export interface Requests {
  /**
   * Load the two graphs of a model under a key. With settings of the detection, `extract` is the
   * network alone, and the worker finds keypoints in its maps.
   */
  load: {
    request: { key: string; extract: Uint8Array; match: Uint8Array; detection: Detection | null };
    reply: { numKeypoints: number };
  };
  /** Free the memory of a model. */
  unload: { request: { key: string }; reply: null };
  /** Extract and match two images. */
  pair: {
    request: { key: string; images: [Pixels, Pixels]; numKeypoints: number };
    reply: MatchResult;
  };
  /** Find the keypoints of a frame. */
  extract: {
    request: { key: string; image: Pixels; numKeypoints: number };
    reply: { features: Features; times: StageTimes };
  };
  /** Make features the reference of `track`. */
  reference: {
    request: { key: string; features: Features };
    reply: null;
  };
  /** Match the reference with a frame, which becomes the reference if `keep`; null without one. */
  track: {
    request: { key: string; features: Features; times: StageTimes; keep: boolean };
    reply: TrackResult | null;
  };
}

export type RequestName = keyof Requests;

export type Request = {
  [Name in RequestName]: { id: number; name: Name; request: Requests[Name]["request"] };
}[RequestName];

export type Reply = { id: number; reply: unknown } | { id: number; error: string };

/** How a worker runs: sent once, before the requests. */
export interface WorkerOptions {
  threads: number;
  moduleUrl: string;
  wasmUrl: string;
}
