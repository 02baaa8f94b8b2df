/** The loop of the live page: takes frames, sends them to the worker, hands over the results. */
import type { LiveFrame } from "../drawing/live-view";
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

const MAX_SHOWN_SIDE = 640;

export class Tracker {
  private running: FrameSource | null = null;
  private loop: Promise<void> = Promise.resolve();
  private key = "";
  private readonly small = newCanvas(1, 1);
  // One picture is drawn while the next one is taken.
  private readonly pictures = [newCanvas(1, 1), newCanvas(1, 1)];

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
      await this.context.engine.request("reference", { key, image, numKeypoints });
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
    const frame = await this.process(source);
    if (frame) this.onFrame(frame);
  }

  private async work(source: FrameSource): Promise<void> {
    let pending: Promise<TrackedFrame | null> | null = this.process(source);
    while (pending) {
      const frame: TrackedFrame | null = await pending;
      if (frame === null) return;
      // The worker gets its next frame before this one is drawn.
      pending = this.running === source ? this.process(source) : null;
      this.onFrame(frame);
    }
  }

  private async process(source: FrameSource): Promise<TrackedFrame | null> {
    if (!source.take() && !(await source.next())) return null;
    const started = performance.now();
    const { maxSide, numKeypoints, minConfidence, previous } = this.settings();
    const picture = this.pictures.reverse()[0];
    copyFrame(source.video, picture, MAX_SHOWN_SIDE);
    copyFrame(picture, this.small, maxSide);
    const image = pixelsOf(this.small);
    const { width, height } = image;
    const grabTime = performance.now() - started;
    const result = await this.context.engine.request(
      "track",
      { key: this.key, image, numKeypoints, keep: previous },
      [image.data.buffer],
    );
    const matched = result && matchedPoints(result, minConfidence);
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
