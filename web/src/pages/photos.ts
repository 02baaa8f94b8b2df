/** The page of two photos: matches, their homography and their files. */
import { OverlayView } from "../drawing/overlay-view";
import { PairView } from "../drawing/pair-view";
import type { MatchResult } from "../engine/protocol";
import { toJson, toNpz, type ImageInfo, type PairResult } from "../files/results";
import { estimateHomography, inlierThreshold, type Homography } from "../geometry/homography";
import { matchedPoints, type MatchedPoints } from "../geometry/matches";
import { pixelsOf, resized, type Photo } from "../images/photo";
import { byId, choice, download, fillRow, fillSelect, Slider } from "../ui/dom";
import { clearError, showError, status } from "../ui/messages";
import { PhotoSlot } from "../ui/photo-slot";
import type { Context, Page } from "./context";

interface Shown {
  photos: [Photo, Photo];
  images: [HTMLCanvasElement, HTMLCanvasElement];
  model: string;
  result: MatchResult;
  matched: MatchedPoints;
  homography: Homography | null;
  homographyTime: number;
}

/** Fewer inliers than this do not prove a common plane. */
export const MIN_INLIERS = 10;

export class PhotosPage implements Page {
  private readonly slots: [PhotoSlot, PhotoSlot];
  private readonly model = byId("model", HTMLSelectElement);
  private readonly pairView: PairView;
  private readonly overlay: OverlayView;
  private readonly confidence: Slider;
  private readonly keypoints: Slider;
  private readonly size: Slider;
  private readonly split: Slider;
  private shown: Shown | null = null;
  private view = "matches";
  private pasteTo = 0;
  private latest = 0;

  constructor(private readonly context: Context) {
    const slot = (i: number) =>
      new PhotoSlot(byId(`slot${i}`, HTMLElement), () => void this.match(), showError);
    this.slots = [slot(0), slot(1)];
    this.confidence = new Slider("confidence", () => this.refresh(), (v) => v.toFixed(2), true);
    this.keypoints = new Slider("keypoints", () => void this.match());
    this.size = new Slider("size", () => void this.match(), (v) => `${v} px`);
    this.split = new Slider(
      "split",
      (value) => this.overlay.setSplit(value),
      (v) => `${Math.round(100 * v)} %`,
      true,
    );
    this.pairView = new PairView(byId("pair", HTMLCanvasElement), (i) => this.describe(i));
    this.overlay = new OverlayView(byId("overlay", HTMLCanvasElement), (v) => (this.split.value = v));
    this.connect();
    this.modelsChanged();
  }

  /** The two photos, if both are there. */
  get photos(): [Photo, Photo] | null {
    const [first, second] = this.slots.map((slot) => slot.photo);
    return first && second ? [first, second] : null;
  }

  /** The two photos; the first sample if none have been chosen. */
  async photosOrSample(): Promise<[Photo, Photo]> {
    if (!this.photos) await this.loadSample("coffee");
    return this.photos!;
  }

  setVisible(visible: boolean): void {
    if (!visible) this.overlay.stop();
    else if (this.shown && this.view !== "matches") this.showView();
  }

  modelsChanged(): void {
    fillSelect(this.model, this.context.catalog.names);
  }

  async showSample(name: string): Promise<void> {
    await this.loadSample(name);
    await this.match();
  }

  private async loadSample(name: string): Promise<void> {
    await Promise.all(
      this.slots.map((slot, i) => slot.readUrl(`samples/${name}${i}.jpg`, `${name}${i}.jpg`)),
    );
  }

  /** Put pasted or dropped images into the places. */
  async take(files: File[]): Promise<void> {
    for (const file of files.slice(0, 2)) {
      const empty = this.slots.findIndex((slot) => slot.photo === null);
      const place = empty >= 0 ? empty : this.pasteTo;
      this.pasteTo = 1 - place;
      await this.slots[place].read([file]);
    }
  }

  private connect(): void {
    this.model.addEventListener("change", () => {
      this.keypoints.max = this.context.catalog.maxKeypoints(this.model.value);
      void this.match();
    });
    for (const button of document.querySelectorAll<HTMLButtonElement>("button.sample")) {
      button.addEventListener("click", () => void this.showSample(button.value).catch(showError));
    }
    byId("swap", HTMLButtonElement).addEventListener("click", () => {
      const [first, second] = this.slots.map((slot) => slot.photo);
      if (!first || !second) return showError("Choose two photos first.");
      this.slots[0].set(second);
      this.slots[1].set(first);
      void this.match();
    });
    choice(byId("view", HTMLElement), (view) => {
      this.view = view;
      this.showView();
    });
    this.connectFiles();
  }

  private connectFiles(): void {
    const name = () => this.shown!.photos.map((p) => p.name.replace(/\.[^.]*$/, "")).join("_");
    const save = (id: string, action: () => void) =>
      byId(id, HTMLButtonElement).addEventListener("click", () => this.shown && action());
    save("save-json", () =>
      download(toJson(this.pairResult()), `${name()}_matches.json`, "application/json"),
    );
    save("save-npz", () =>
      download(toNpz(this.pairResult()), `${name()}_matches.npz`, "application/octet-stream"),
    );
    save("save-picture", () => {
      const canvas = this.view === "matches" ? this.pairView.canvas : this.overlay.canvas;
      const suffix = this.view === "matches" ? "matches" : "overlay";
      canvas.toBlob((blob) => {
        if (blob) download(blob, `${name()}_${suffix}.png`, "image/png");
        else showError("The picture cannot be written.");
      });
    });
  }

  private async match(): Promise<void> {
    const { photos } = this;
    if (!photos) return status("Choose the other photo.");
    const turn = ++this.latest; // a later call makes this one out of date
    const model = this.model.value;
    status("Matching…");
    try {
      const numKeypoints = this.keypoints.value;
      const key = await this.context.catalog.load(model, numKeypoints);
      if (turn !== this.latest) return;
      const images = photos.map((photo) => resized(photo, this.size.value)) as Shown["images"];
      const pixels = images.map(pixelsOf) as [ReturnType<typeof pixelsOf>, ReturnType<typeof pixelsOf>];
      const result = await this.context.engine.request(
        "pair",
        { key, images: pixels, numKeypoints },
        pixels.map((image) => image.data.buffer),
      );
      if (turn !== this.latest) return;
      clearError();
      this.shown = { photos, images, model, result, ...this.geometry(result, images[1]) };
      this.show();
      performance.mark("featherglue-matched");
    } catch (error) {
      if (turn === this.latest) showError(error);
    }
  }

  private geometry(result: MatchResult, { width, height }: HTMLCanvasElement) {
    const matched = matchedPoints(result, this.confidence.value);
    const started = performance.now();
    const homography = estimateHomography(matched.points0, matched.points1, {
      threshold: inlierThreshold(width, height),
    });
    return { matched, homography, homographyTime: performance.now() - started };
  }

  /** Apply another minimum confidence to the matches at hand. */
  private refresh(): void {
    if (!this.shown) return;
    Object.assign(this.shown, this.geometry(this.shown.result, this.shown.images[1]));
    this.show();
  }

  private show(): void {
    const { images, result, matched, homography, homographyTime } = this.shown!;
    byId("result", HTMLElement).hidden = false;
    this.pairView.show({ images, matched });
    const count = matched.confidence.length;
    const counts = [result.keypoints0, result.keypoints1].map((k) => k.scores.length);
    const plane = this.plane
      ? `${homography!.numInliers} inliers of a homography`
      : "no homography: the matches do not agree on a plane";
    const text = `${count} matches of ${counts[0]} and ${counts[1]} keypoints; ${plane}.`;
    const scaled = this.shown!.photos.map(({ width, height }, i) =>
      width > images[i].width
        ? ` Photo ${i + 1} scaled down from ${width}×${height} to ${images[i].width}×${images[i].height} px.`
        : "",
    );
    byId("summary", HTMLElement).textContent = text + scaled.join("");
    this.pairView.canvas.setAttribute("aria-label", "Matches of the two photos");
    const { gray, extract, match } = result.times;
    const times = [gray, extract, match, homographyTime];
    fillRow(byId("times", HTMLElement), [...times, times.reduce((a, b) => a + b, 0)]);
    this.showView();
    status(`Done: ${count} matches.`);
  }

  private get plane(): boolean {
    return (this.shown?.homography?.numInliers ?? 0) >= MIN_INLIERS;
  }

  private showView(): void {
    const overlay = this.view !== "matches";
    byId("stage-matches", HTMLElement).hidden = overlay;
    byId("hint", HTMLElement).hidden = overlay;
    byId("legend", HTMLElement).hidden = overlay;
    byId("stage-overlay", HTMLElement).hidden = !overlay;
    byId("split-label", HTMLElement).hidden = this.view !== "swipe";
    const hint = byId("overlay-hint", HTMLElement);
    this.overlay.canvas.hidden = !this.plane;
    if (!overlay || !this.shown) return this.overlay.stop();
    hint.textContent = this.plane
      ? "The first photo, warped by the homography, over the second."
      : "The matches do not agree on a plane: nothing to lay over.";
    if (!this.plane) return this.overlay.stop();
    this.overlay.canvas.setAttribute("aria-label", "First photo laid over the second");
    this.overlay.show(this.shown.images, this.shown.homography!.model);
    this.overlay.setSplit(this.split.value);
    this.overlay.setMode(this.view as "blink" | "swipe");
  }

  private describe(i: number): void {
    const detail = byId("match-detail", HTMLElement);
    const { matched } = this.shown ?? {};
    if (!matched || i < 0) {
      detail.textContent = "";
      return;
    }
    const at = (points: Float32Array) =>
      `(${points[2 * i].toFixed(1)}, ${points[2 * i + 1].toFixed(1)})`;
    const inlier = this.plane ? (this.shown!.homography!.inliers[i] ? ", inlier" : ", outlier") : "";
    detail.textContent =
      `Match ${i + 1} of ${matched.confidence.length}: ${at(matched.points0)} – ` +
      `${at(matched.points1)}, confidence ${matched.confidence[i].toFixed(2)}${inlier}`;
  }

  private pairResult(): PairResult {
    const { photos, images, model, result, homography } = this.shown!;
    const infos = photos.map(({ name, width, height }, i) => ({
      name,
      width,
      height,
      matchedWidth: images[i].width,
      matchedHeight: images[i].height,
    })) as [ImageInfo, ImageInfo];
    const minConfidence = this.confidence.value;
    return { model, images: infos, result, minConfidence, homography: this.plane ? homography : null };
  }
}
