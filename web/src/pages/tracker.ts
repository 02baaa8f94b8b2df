/** The loop of the live page: takes frames, sends them to the worker, hands over the results. */
import type { LiveFrame } from "../drawing/live-view";
import type { Features, StageTimes } from "../engine/protocol";
import { matchedPoints } from "../geometry/matches";
import type { FrameSource } from "../images/frame-source";
import { context2d, fittingSize, newCanvas, pixelsOf } from "../images/photo";
import type { Context } from "./context";

export interface TrackerSettings {
  model: string;
  /** Longest side at which frames are matched, px. */
  maxSide: number;
  numKeypoints: number;
  minConfidence: number;
  /** Match with the previous frame instead of the reference. */
  previous: boolean;
}

export interface TrackedFrame extends LiveFrame {
  /** Time to copy the frame, ms. */
  grabTime: number;
}

/** A frame whose keypoints are found. */
interface ExtractedFrame {
  key: string;
  picture: HTMLCanvasElement;
  features: Features;
  times: StageTimes;
  grabTime: number;
}

const MAX_SHOWN_SIDE = 640;

export class Tracker {
  private running: FrameSource | null = null;
  private loop: Promise<void> = Promise.resolve();
  private key = "";
  private readonly small = newCanvas(1, 1);
  // The last picture stays, while one is matched and one is taken.
  private readonly pictures = [newCanvas(1, 1), newCanvas(1, 1), newCanvas(1, 1)];

  constructor(
    private readonly context: Context,
    private readonly settings: () => TrackerSettings,
    private readonly onFrame: (frame: TrackedFrame) => void,
  ) {}

  /**
   * Load the model of the settings.
   *
   * @param reference picture that later frames are matched with
   */
  async prepare(reference: HTMLCanvasElement | null): Promise<void> {
    const { model, numKeypoints } = this.settings();
    const key = await this.context.catalog.load(model, numKeypoints);
    if (reference) {
      const image = pixelsOf(reference);
      const { engine } = this.context;
      const { features } = await engine.request("extract", { key, image, numKeypoints });
      await engine.request("reference", { key, features });
    }
    this.key = key;
  }

  /** Process frames until `stop` or the end of the source. */
  async run(source: FrameSource): Promise<void> {
    await this.stop();
    this.running = source;
    this.loop = this.work(source);
    await this.loop;
  }

  /** Stop, and wait for the frame in progress. */
  async stop(): Promise<void> {
    this.running?.cancel();
    this.running = null;
    await this.loop.catch(() => {}); // `run` reports its error
  }

  /** Process one frame of a paused source. */
  async step(source: FrameSource): Promise<void> {
    await source.step();
    const extracted = await this.extract(source);
    if (extracted) this.onFrame(await this.match(extracted));
  }

  private async work(source: FrameSource): Promise<void> {
    let pending: Promise<ExtractedFrame | null> | null = this.extract(source);
    while (pending) {
      const extracted: ExtractedFrame | null = await pending;
      if (extracted === null) return;
      // The next frame is extracted while this one is matched and drawn.
      pending = this.running === source ? this.extract(source) : null;
      pending?.catch(() => {}); // the error is thrown above, unless matching fails before
      this.onFrame(await this.match(extracted));
    }
  }

  private async extract(source: FrameSource): Promise<ExtractedFrame | null> {
    if (!source.take() && !(await source.next())) return null;
    const started = performance.now();
    const { maxSide, numKeypoints } = this.settings();
    const { key } = this;
    const picture = this.pictures[0];
    this.pictures.push(this.pictures.shift()!);
    copyFrame(source.video, picture, MAX_SHOWN_SIDE);
    copyFrame(picture, this.small, maxSide);
    const image = pixelsOf(this.small);
    const grabTime = performance.now() - started;
    const request = { key, image, numKeypoints };
    const found = await this.context.engine.request("extract", request, [image.data.buffer]);
    return { ...found, key, picture, grabTime };
  }

  private async match(frame: ExtractedFrame): Promise<TrackedFrame> {
    const { key, features, times, picture, grabTime } = frame;
    const { minConfidence, previous } = this.settings();
    const request = { key, features, times, keep: previous };
    const result = await this.context.engine.request("track", request);
    const matched = result && matchedPoints(result, minConfidence);
    const { width, height } = features;
    return { picture, width, height, result, matched, grabTime };
  }
}

function copyFrame(
  source: HTMLVideoElement | HTMLCanvasElement,
  target: HTMLCanvasElement,
  maxSide: number,
): void {
  const [sourceWidth, sourceHeight] =
    source instanceof HTMLVideoElement
      ? [source.videoWidth, source.videoHeight]
      : [source.width, source.height];
  const [width, height] = fittingSize(sourceWidth, sourceHeight, maxSide);
  if (target.width !== width || target.height !== height) Object.assign(target, { width, height });
  context2d(target).drawImage(source, 0, 0, width, height);
}
