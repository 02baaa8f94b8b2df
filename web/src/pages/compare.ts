/** The page that compares two models on the same photos. */
import { PairView } from "../drawing/pair-view";
import type { MatchResult, StageTimes } from "../engine/protocol";
import { estimateHomography, inlierThreshold } from "../geometry/homography";
import { matchedPoints } from "../geometry/matches";
import { pixelsOf, resized } from "../images/photo";
import { byId, fillRow, fillSelect, Slider } from "../ui/dom";
import { clearError, showError, status } from "../ui/messages";
import type { Context, Page } from "./context";
import { MIN_INLIERS, type PhotosPage } from "./photos";

const NUM_RUNS = 3; // of each model, after one that is not counted

interface Compared {
  name: string;
  numKeypoints: number;
  key: string;
  result: MatchResult | null;
  times: StageTimes;
}

export class ComparePage implements Page {
  private readonly models = [0, 1].map((i) => byId(`compare-model${i}`, HTMLSelectElement));
  private readonly views = [0, 1].map(
    (i) => new PairView(byId(`compare-canvas${i}`, HTMLCanvasElement)),
  );
  private readonly keypoints = new Slider("compare-keypoints", () => {});
  private readonly size = new Slider("compare-size", () => {}, (v) => `${v} px`);
  private readonly button = byId("compare-run", HTMLButtonElement);
  private running: Promise<void> = Promise.resolve();

  constructor(
    private readonly context: Context,
    private readonly photos: PhotosPage,
    private readonly onModels: () => void,
  ) {
    this.modelsChanged();
    const names = context.catalog.names;
    this.models[1].value = names[Math.min(1, names.length - 1)];
    this.button.addEventListener("click", () => (this.running = this.run()));
    const input = byId("own-model", HTMLInputElement);
    input.addEventListener("change", () => {
      const files = [...(input.files ?? [])];
      input.value = "";
      void this.addModel(files);
    });
  }

  setVisible(): void {}

  modelsChanged(): void {
    for (const select of this.models) fillSelect(select, this.context.catalog.names);
  }

  /** Take the graphs of a model, or other photos. */
  async take(files: File[]): Promise<void> {
    const images = files.filter((file) => file.type.startsWith("image/"));
    await (images.length > 0 ? this.photos.take(images) : this.addModel(files));
  }

  /** Add the user's own pair of graphs and choose it as the second model. */
  private async addModel(files: File[]): Promise<void> {
    status("Loading your model…");
    await this.running; // it may use the model that is replaced
    try {
      const name = await this.context.catalog.add(files);
      clearError();
      this.modelsChanged();
      this.onModels();
      this.models[1].value = name;
      status(`Loaded ${name}.`);
    } catch (error) {
      showError(error);
    }
  }

  private async run(): Promise<void> {
    this.button.disabled = true;
    try {
      const photos = await this.photos.photosOrSample();
      const images = photos.map((photo) => resized(photo, this.size.value)) as [
        HTMLCanvasElement,
        HTMLCanvasElement,
      ];
      const compared = await Promise.all(this.models.map((select) => this.prepare(select.value)));
      // The models take turns, so that a change of the machine's load meets both.
      for (let run = 0; run <= NUM_RUNS; run++) {
        status(`Comparing, run ${run} of ${NUM_RUNS}…`);
        for (const model of compared) await this.matchOnce(model, images, run > 0);
      }
      clearError();
      byId("compare-results", HTMLElement).hidden = false;
      compared.forEach((model, i) => this.show(i, model, images));
      status("Compared.");
    } catch (error) {
      showError(error);
    } finally {
      this.button.disabled = false;
    }
  }

  private async prepare(name: string): Promise<Compared> {
    const numKeypoints = Math.min(this.keypoints.value, this.context.catalog.maxKeypoints(name));
    const key = await this.context.catalog.load(name, numKeypoints);
    const times = { gray: Infinity, extract: Infinity, match: Infinity, geometry: 0 };
    return { name, numKeypoints, key, result: null, times };
  }

  private async matchOnce(
    model: Compared,
    images: [HTMLCanvasElement, HTMLCanvasElement],
    counted: boolean,
  ): Promise<void> {
    const { key, numKeypoints, times } = model;
    const result = await this.context.engine.request("pair", {
      key,
      numKeypoints,
      images: [pixelsOf(images[0]), pixelsOf(images[1])],
    });
    model.result = result;
    if (!counted) return;
    times.extract = Math.min(times.extract, result.times.extract);
    times.match = Math.min(times.match, result.times.match);
  }

  private show(
    i: number,
    { name, result, times }: Compared,
    images: [HTMLCanvasElement, HTMLCanvasElement],
  ): void {
    if (!result) return;
    const matched = matchedPoints(result);
    const { width, height } = images[1];
    const threshold = inlierThreshold(width, height);
    const homography = estimateHomography(matched.points0, matched.points1, { threshold });
    const inliers = homography?.numInliers ?? 0;
    byId(`compare-name${i}`, HTMLElement).textContent = name;
    const counts = [result.keypoints0, result.keypoints1].map((k) => k.scores.length);
    byId(`compare-summary${i}`, HTMLElement).textContent =
      `${matched.confidence.length} matches of ${counts[0]} and ${counts[1]} keypoints; ` +
      (inliers >= MIN_INLIERS ? `${inliers} inliers of a homography.` : "no homography.");
    this.views[i].canvas.setAttribute("aria-label", `Matches of ${name}`);
    this.views[i].show({ images, matched });
    fillRow(byId(`compare-times${i}`, HTMLElement), [
      times.extract,
      times.match,
      times.extract + times.match,
    ]);
  }
}
