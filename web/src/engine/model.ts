/** The two graphs of a model, ready to run. */
import { InferenceSession, Tensor } from "onnxruntime-web/wasm";
import { toGray } from "../images/gray";
import { CELL, decode, padToCells, type DenseMap, type Detection } from "./detection";
import { checkPair, GraphError, readGraphInfo, type GraphInfo } from "./metadata";
import type { Features, Keypoints, Pixels } from "./protocol";

type Gray = Uint8Array<ArrayBuffer>;

type Found = Omit<Features, "width" | "height">;

export interface Assignment {
  matches: Int32Array;
  confidence: Float32Array;
}

export class Model {
  private constructor(
    readonly info: GraphInfo,
    private readonly extractor: InferenceSession,
    private readonly matcher: InferenceSession,
    private readonly detection: Detection | null,
  ) {}

  /**
   * @param detection how to find keypoints in the maps of `extract`; null if its outputs are keypoints
   * @throws GraphError: a graph is damaged, of another version, or the two do not belong together
   */
  static async load(
    extract: Uint8Array,
    match: Uint8Array,
    detection: Detection | null,
  ): Promise<Model> {
    const info = readGraphInfo(match, "match.onnx");
    if (detection === null) checkPair(readGraphInfo(extract, "extract.onnx"), info);
    const [extractor, matcher] = [await open(extract, "extract.onnx"), await open(match, "match.onnx")];
    return new Model(info, extractor, matcher, detection);
  }

  async release(): Promise<void> {
    await Promise.all([this.extractor.release(), this.matcher.release()]);
  }

  /** Keypoints of an image; at most `numKeypoints`. Adds its times to `times`. */
  async extract(image: Pixels, numKeypoints: number, times: Times): Promise<Features> {
    const { width, height } = image;
    this.checkSize(width, height);
    const started = performance.now();
    const gray = toGray(image.data);
    const converted = performance.now();
    const found = await (this.detection
      ? this.detect(this.detection, gray, image, numKeypoints)
      : this.runGraph(gray, image, numKeypoints));
    times.gray += converted - started;
    times.extract += performance.now() - converted;
    return { ...found, width, height };
  }

  /** The outputs of a graph from pixels to keypoints. */
  private async runGraph(gray: Gray, image: Pixels, count: number): Promise<Found> {
    const output = await this.extractor.run({
      image: new Tensor("uint8", gray, [1, 1, image.height, image.width]),
    });
    const found = {
      points: output.keypoints.data as Float32Array,
      scores: output.scores.data as Float32Array,
      descriptors: output.descriptors.data as Float32Array,
    };
    found.scores.fill(0, Math.min(count, found.scores.length));
    return found;
  }

  /** Keypoints and descriptors in the maps of the network. */
  private async detect(
    detection: Detection,
    gray: Gray,
    image: Pixels,
    count: number,
  ): Promise<Found> {
    const padded = padToCells(gray, image.width, image.height);
    const output = await this.extractor.run({
      image: new Tensor("uint8", padded.data, [1, 1, padded.height, padded.width]),
    });
    const map = (name: string, cell: number): DenseMap => ({
      data: output[name].data as Float32Array,
      width: padded.width / cell,
      height: padded.height / cell,
    });
    const maps = [map("scores", 1), map("descriptors", CELL)] as const;
    return decode(...maps, image, detection, this.info.numKeypoints, count);
  }

  async match(first: Features, second: Features, times: Times): Promise<Assignment> {
    const started = performance.now();
    const inputs: Record<string, Tensor> = {};
    [first, second].forEach((view, i) => {
      const places = view.scores.length;
      const dim = view.descriptors.length / places;
      inputs[`keypoints${i}`] = new Tensor("float32", view.points, [places, 2]);
      inputs[`scores${i}`] = new Tensor("float32", view.scores, [places]);
      inputs[`descriptors${i}`] = new Tensor("float32", view.descriptors, [places, dim]);
      inputs[`image_size${i}`] = new Tensor("float32", [view.width, view.height], [2]);
    });
    const output = await this.matcher.run(inputs);
    const matches = Int32Array.from(output.matches.data as BigInt64Array, Number);
    times.match += performance.now() - started;
    return { matches, confidence: output.confidence.data as Float32Array };
  }

  private checkSize(width: number, height: number): void {
    const { size } = this.info;
    if (size === null || (size[0] === width && size[1] === height)) return;
    throw new GraphError(
      `These graphs take images of ${size[0]}×${size[1]} px only, not ${width}×${height}. ` +
        "Export them without --size.",
    );
  }
}

export interface Times {
  gray: number;
  extract: number;
  match: number;
}

/** The used places of features. */
export function usedKeypoints(features: Features): Keypoints {
  const unused = features.scores.indexOf(0);
  const count = unused < 0 ? features.scores.length : unused;
  return { points: features.points.slice(0, 2 * count), scores: features.scores.slice(0, count) };
}

async function open(bytes: Uint8Array, file: string): Promise<InferenceSession> {
  try {
    return await InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  } catch (error) {
    console.error(error);
    if (String(error).includes("no available backend")) {
      throw new Error("The WebAssembly runtime cannot be loaded. Check the connection and reload.");
    }
    throw new GraphError(`${file}: ONNX Runtime cannot open it; the file is damaged.`);
  }
}
