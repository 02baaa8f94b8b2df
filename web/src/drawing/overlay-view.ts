/** Image 0 warped onto image 1 by their homography: the two blink, or a line divides them. */
import type { Matrix3 } from "../geometry/matrix3";
import { context2d, newCanvas, pixelsOf } from "../images/photo";
import { warpOnto } from "./warp";

const BLINK_MS = 700;

export type OverlayMode = "blink" | "swipe";

export class OverlayView {
  private base: HTMLCanvasElement | null = null;
  private warped: HTMLCanvasElement | null = null;
  private mode: OverlayMode = "blink";
  private split = 0.5;
  private showWarped = true;
  private timer = 0;

  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly onSplit: (split: number) => void,
  ) {
    const move = (event: PointerEvent) => {
      if (this.mode !== "swipe" || !(event.buttons & 1 || event.type === "pointerdown")) return;
      const box = canvas.getBoundingClientRect();
      this.setSplit(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
      this.onSplit(this.split);
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      if (this.mode === "blink") this.toggle();
      move(event);
    });
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      if (this.mode === "blink") this.toggle();
    });
  }

  /** Show two images; `null` stops and clears. */
  show(images: [HTMLCanvasElement, HTMLCanvasElement] | null, H0to1?: Matrix3): void {
    clearInterval(this.timer);
    if (images === null || H0to1 === undefined) {
      this.base = this.warped = null;
      return;
    }
    this.base = images[1];
    this.warped = newCanvas(images[1].width, images[1].height);
    const target = pixelsOf(images[1]);
    warpOnto(target, pixelsOf(images[0]), H0to1);
    context2d(this.warped).putImageData(new ImageData(target.data, target.width, target.height), 0, 0);
    this.canvas.width = this.base.width;
    this.canvas.height = this.base.height;
    this.draw();
  }

  setMode(mode: OverlayMode): void {
    clearInterval(this.timer);
    this.mode = mode;
    this.canvas.style.touchAction = mode === "swipe" ? "pan-y" : "auto";
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (mode === "blink" && !still) this.timer = window.setInterval(() => this.toggle(), BLINK_MS);
    this.draw();
  }

  setSplit(split: number): void {
    this.split = split;
    this.draw();
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private toggle(): void {
    this.showWarped = !this.showWarped;
    this.draw();
  }

  private draw(): void {
    const context = this.canvas.getContext("2d");
    if (!context || !this.base || !this.warped) return;
    const { width, height } = this.canvas;
    if (this.mode === "blink") {
      context.drawImage(this.showWarped ? this.warped : this.base, 0, 0);
      return;
    }
    const column = Math.round(this.split * width);
    context.drawImage(this.base, 0, 0);
    if (column > 0) context.drawImage(this.warped, 0, 0, column, height, 0, 0, column, height);
    context.fillStyle = "white";
    context.fillRect(column - 1, 0, 2, height);
  }
}
