/** The live page: a camera or a video file, matched frame by frame. */
import { drawAugmented, drawBeside, drawMotion } from "../drawing/live-view";
import { Recorder } from "../files/recorder";
import { FrameSource, VideoError } from "../images/frame-source";
import { context2d, newCanvas, readPhoto, resized, type Photo } from "../images/photo";
import { byId, choice, fillRow, fillSelect, Slider } from "../ui/dom";
import { clearError, showError, status } from "../ui/messages";
import type { Context, Page } from "./context";
import { MIN_INLIERS } from "./photos";
import { FrameStatistics } from "./statistics";
import { Tracker, type TrackedFrame } from "./tracker";

type Mode = "previous" | "reference" | "augmented";

export class LivePage implements Page {
  private readonly canvas = byId("live-canvas", HTMLCanvasElement);
  private readonly summary = byId("live-summary", HTMLElement);
  private readonly model = byId("live-model", HTMLSelectElement);
  private readonly confidence = new Slider("live-confidence", () => {}, (v) => v.toFixed(2), true);
  private readonly keypoints = new Slider("live-keypoints", () => this.prepare());
  private readonly size = new Slider("live-size", () => this.prepare(), (v) => `${v} px`);
  private readonly recorder = new Recorder();
  private readonly statistics = new FrameStatistics();
  private readonly tracker: Tracker;
  private source: FrameSource | null = null;
  private mode: Mode = "previous";
  private reference: Photo | null = null;
  private matchedReference: HTMLCanvasElement | null = null;
  private glue = defaultPicture();
  private last: TrackedFrame | null = null;
  private paused = false;

  constructor(private readonly context: Context) {
    const settings = () => ({
      model: this.model.value,
      maxSide: this.size.value,
      numKeypoints: this.keypoints.value,
      minConfidence: this.confidence.value,
      previous: this.mode === "previous",
    });
    this.tracker = new Tracker(context, settings, (frame) => this.show(frame));
    this.connect();
    this.modelsChanged();
  }

  setVisible(visible: boolean): void {
    if (!visible && this.source && !this.paused) void this.guarded(() => this.setPaused(true));
  }

  modelsChanged(): void {
    fillSelect(this.model, this.context.catalog.names);
    if (this.source) this.prepare(); // the model in use may be gone
  }

  async take(files: File[]): Promise<void> {
    const [file] = files;
    await this.guarded(async () => {
      if (file.type.startsWith("video/")) await this.open(() => FrameSource.file(file));
      else await this.setReference(await readPhoto(file, file.name));
    });
  }

  private connect(): void {
    const onClick = (id: string, action: () => unknown) =>
      byId(id, HTMLButtonElement).addEventListener("click", () => void this.guarded(action));
    onClick("use-camera", () => this.open(() => FrameSource.camera()));
    onClick("live-pause", () => this.setPaused(!this.paused));
    onClick("live-step", () => this.step());
    onClick("live-record", () => this.toggleRecording());
    onClick("live-stop", () => this.close());
    onClick("live-take", () => this.takeReference());
    const onFile = (id: string, action: (file: File) => unknown) => {
      const input = byId(id, HTMLInputElement);
      input.addEventListener("change", () => {
        const file = input.files?.[0];
        input.value = "";
        if (file) void this.guarded(() => action(file));
      });
    };
    onFile("video-file", (file) => this.open(() => FrameSource.file(file)));
    onFile("live-reference", async (file) => this.setReference(await readPhoto(file, file.name)));
    onFile("live-glue", async (file) => {
      this.glue = resized(await readPhoto(file, file.name), 512);
      this.setMode("augmented");
    });
    this.model.addEventListener("change", () => this.prepare());
    choice(byId("live-mode", HTMLElement), (mode) => void this.guarded(() => this.chooseMode(mode as Mode)));
  }

  private async guarded(action: () => unknown): Promise<void> {
    try {
      clearError();
      await action();
    } catch (error) {
      showError(error);
    }
  }

  private async open(create: () => Promise<FrameSource>): Promise<void> {
    await this.close();
    status("Starting…");
    const [source] = await Promise.all([create(), this.load()]);
    this.source = source;
    source.onEnded = () =>
      void this.guarded(async () => {
        await this.close();
        throw new VideoError("The camera was disconnected.");
      });
    await this.setPaused(false);
  }

  private async close(): Promise<void> {
    if (this.recorder.active) this.toggleRecording();
    const { source } = this;
    this.source = null;
    source?.close();
    this.paused = false;
    this.enableButtons();
    await this.tracker.stop(); // the frame in progress is still shown
    this.summary.textContent = "Nothing is playing. Video stays on this device.";
  }

  /** Load the model and the reference again, after a change of the settings. */
  private prepare(): void {
    void this.guarded(() => this.load());
  }

  private load(): Promise<void> {
    this.matchedReference = this.reference && resized(this.reference, this.size.value);
    return this.tracker.prepare(this.mode === "previous" ? null : this.matchedReference);
  }

  private async setPaused(paused: boolean): Promise<void> {
    const { source } = this;
    if (!source) return;
    this.paused = paused;
    source.setPaused(paused);
    this.enableButtons();
    await this.tracker.stop();
    if (paused) return status("Paused.");
    this.statistics.reset();
    status("Playing.");
    void this.guarded(() => this.tracker.run(source));
  }

  private async step(): Promise<void> {
    if (!this.source) return;
    if (!this.paused) await this.setPaused(true);
    await this.tracker.step(this.source);
  }

  private toggleRecording(): void {
    if (this.recorder.active) this.recorder.stop();
    else this.recorder.start(this.canvas);
    this.enableButtons();
    status(this.recorder.active ? "Recording." : "The recording is saved.");
  }

  private enableButtons(): void {
    for (const id of ["live-pause", "live-step", "live-record", "live-stop", "live-take"]) {
      byId(id, HTMLButtonElement).disabled = this.source === null;
    }
    const pause = byId("live-pause", HTMLButtonElement);
    pause.textContent = this.paused ? "Continue" : "Pause";
    const record = byId("live-record", HTMLButtonElement);
    record.setAttribute("aria-pressed", String(this.recorder.active));
    record.textContent = this.recorder.active ? "Save recording" : "Record";
  }

  private async takeReference(): Promise<void> {
    if (!this.last) throw new VideoError("No frame has been processed yet.");
    const { picture } = this.last;
    const canvas = newCanvas(picture.width, picture.height);
    context2d(canvas).drawImage(picture, 0, 0);
    const { width, height } = canvas;
    await this.setReference({ name: "frame", width, height, canvas });
  }

  private async setReference(photo: Photo): Promise<void> {
    this.reference = photo;
    if (this.mode === "previous") this.setMode("reference");
    await this.load();
    status(`Reference: ${photo.name}, ${photo.width}×${photo.height} px.`);
  }

  private async chooseMode(mode: Mode): Promise<void> {
    this.mode = mode;
    if (mode === "previous") return;
    if (this.reference) await this.load();
    else if (this.last) await this.takeReference();
    else status("Choose a reference, or take a frame as reference while a video plays.");
  }

  private setMode(mode: Mode): void {
    byId("live-mode", HTMLElement)
      .querySelector<HTMLButtonElement>(`button[value=${mode}]`)
      ?.click();
  }

  private show(frame: TrackedFrame): void {
    const started = performance.now();
    this.last = frame;
    const homography = frame.result?.homography ?? null;
    const numInliers = homography?.numInliers ?? 0;
    const found = numInliers >= MIN_INLIERS;
    const reference = this.matchedReference;
    if (this.mode === "previous" || !reference) drawMotion(this.canvas, frame);
    else if (this.mode === "reference") drawBeside(this.canvas, frame, reference);
    else drawAugmented(this.canvas, frame, reference, this.glue, found ? homography!.model : null);
    const now = performance.now();
    const mean = this.statistics.add(now, frame, now - started);
    if (mean) this.print(frame, numInliers, mean);
    else if (this.paused) this.describe(frame, numInliers);
  }

  private print(frame: TrackedFrame, numInliers: number, mean: number[]): void {
    fillRow(byId("live-times", HTMLElement), mean);
    this.describe(frame, numInliers);
  }

  private describe(frame: TrackedFrame, numInliers: number): void {
    const count = frame.matched?.confidence.length ?? 0;
    const plane =
      numInliers >= MIN_INLIERS ? `${numInliers} inliers of a homography` : "no common plane";
    this.summary.textContent = frame.result
      ? `${frame.width}×${frame.height} px, ${count} matches, ${plane}.`
      : "No reference yet.";
  }
}

/** The picture that the overlay shows until the user chooses one. */
function defaultPicture(): HTMLCanvasElement {
  const canvas = newCanvas(320, 240);
  const context = context2d(canvas);
  for (let y = 0; y < 6; y++) {
    for (let x = 0; x < 8; x++) {
      context.fillStyle = (x + y) % 2 ? "#00796b" : "#e0f2f1";
      context.fillRect(40 * x, 40 * y, 40, 40);
    }
  }
  context.fillStyle = "white";
  context.fillRect(30, 80, 260, 80);
  context.fillStyle = "#00695c";
  context.font = "bold 42px sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText("featherglue", 160, 121, 240);
  return canvas;
}
