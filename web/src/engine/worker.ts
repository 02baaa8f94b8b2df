/** Runs the models in a worker, so that the page never waits. */
import { env } from "onnxruntime-web/wasm";
import { estimateHomography, inlierThreshold, type Homography } from "../geometry/homography";
import { matchedPoints } from "../geometry/matches";
import { Model, usedKeypoints, type Assignment } from "./model";
import type {
  Features,
  MatchResult,
  Request,
  RequestName,
  Requests,
  StageTimes,
  TrackResult,
  WorkerOptions,
} from "./protocol";

type Handlers = {
  [Name in RequestName]: (request: Requests[Name]["request"]) => Promise<Requests[Name]["reply"]>;
};

const models = new Map<string, Model>();
let reference: { key: string; features: Features } | null = null;

function model(key: string): Model {
  const found = models.get(key);
  if (!found) throw new Error(`The model ${key} is not loaded.`);
  return found;
}

const noTimes = (): StageTimes => ({ gray: 0, extract: 0, match: 0, geometry: 0 });

function result(a: Features, b: Features, found: Assignment, times: StageTimes): MatchResult {
  const keypoints0 = usedKeypoints(a);
  const count = keypoints0.scores.length;
  return {
    keypoints0,
    keypoints1: usedKeypoints(b),
    matches: found.matches.slice(0, count),
    confidence: found.confidence.slice(0, count),
    times,
  };
}

function timedHomography(matched: MatchResult, target: Features): Homography | null {
  const started = performance.now();
  const { points0, points1 } = matchedPoints(matched);
  const homography = estimateHomography(points0, points1, {
    threshold: inlierThreshold(target.width, target.height),
  });
  matched.times.geometry = performance.now() - started;
  return homography;
}

const handlers: Handlers = {
  async load({ key, extract, match, detection }) {
    const loaded = await Model.load(extract, match, detection);
    await models.get(key)?.release();
    models.set(key, loaded);
    return { numKeypoints: loaded.info.numKeypoints };
  },
  async unload({ key }) {
    await models.get(key)?.release();
    models.delete(key);
    if (reference?.key === key) reference = null;
    return null;
  },
  async pair({ key, images, numKeypoints }) {
    const times = noTimes();
    const first = await model(key).extract(images[0], numKeypoints, times);
    const second = await model(key).extract(images[1], numKeypoints, times);
    const found = await model(key).match(first, second, times);
    return result(first, second, found, times);
  },
  async extract({ key, image, numKeypoints }) {
    const times = noTimes();
    return { features: await model(key).extract(image, numKeypoints, times), times };
  },
  async reference({ key, features }) {
    reference = { key, features };
    return null;
  },
  async track({ key, features, times, keep }): Promise<TrackResult | null> {
    const previous = reference?.key === key ? reference.features : null;
    if (keep) reference = { key, features };
    if (previous === null) return null;
    const found = await model(key).match(previous, features, times);
    const matched = result(previous, features, found, times);
    return { ...matched, homography: timedHomography(matched, features) };
  },
};

// One request at a time: ONNX Runtime in WebAssembly runs one session at a time.
let queue: Promise<void> = Promise.resolve();

function serve({ id, name, request }: Request): void {
  queue = queue.then(async () => {
    try {
      const reply = await (handlers[name] as (r: typeof request) => Promise<unknown>)(request);
      self.postMessage({ id, reply });
    } catch (error) {
      self.postMessage({ id, error: error instanceof Error ? error.message : String(error) });
    }
  });
}

self.onmessage = ({ data }: MessageEvent<WorkerOptions | Request>): void => {
  if ("name" in data) return serve(data);
  env.wasm.numThreads = data.threads;
  env.wasm.wasmPaths = { mjs: data.moduleUrl, wasm: data.wasmUrl };
};
