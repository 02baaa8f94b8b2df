/** Two images and the lines between their matches; shows one match on hover, touch or key. */
import { newCanvas } from "../images/photo";
import { confidenceColor } from "./colors";
import type { MatchedPoints } from "../geometry/matches";

export interface Pair {
  images: [HTMLCanvasElement, HTMLCanvasElement];
  matched: MatchedPoints;
}

interface Placed {
  x: number;
  y: number;
  scale: number;
}

const GAP = 8; // px between the images
const REACH = 24; // px, distance within which a match is picked

/** Positions and scales of two images, side by side or one above the other, and the whole size. */
export function layout(
  sizes: [[number, number], [number, number]],
  width: number,
  stacked: boolean,
): { placed: [Placed, Placed]; height: number } {
  const [[w0, h0], [w1, h1]] = sizes;
  if (stacked) {
    const [s0, s1] = [width / w0, width / w1];
    return {
      placed: [
        { x: 0, y: 0, scale: s0 },
        { x: 0, y: h0 * s0 + GAP, scale: s1 },
      ],
      height: Math.round(h0 * s0 + GAP + h1 * s1),
    };
  }
  // Both images get the same height.
  const height = (width - GAP) / (w0 / h0 + w1 / h1);
  const [s0, s1] = [height / h0, height / h1];
  return {
    placed: [
      { x: 0, y: 0, scale: s0 },
      { x: w0 * s0 + GAP, y: 0, scale: s1 },
    ],
    height: Math.round(height),
  };
}

/** Index of the match with an end nearest to a place, within `REACH`; −1 for none. */
export function nearestMatch(
  pair: Pair,
  placed: [Placed, Placed],
  x: number,
  y: number,
): number {
  let [best, bestDistance] = [-1, REACH];
  [pair.matched.points0, pair.matched.points1].forEach((points, side) => {
    for (let i = 0; i < points.length / 2; i++) {
      const [px, py] = onCanvas(points, i, placed[side]);
      const distance = Math.hypot(px - x, py - y);
      if (distance < bestDistance) [best, bestDistance] = [i, distance];
    }
  });
  return best;
}

function onCanvas(points: Float32Array, i: number, { x, y, scale }: Placed): [number, number] {
  return [x + (points[2 * i] + 0.5) * scale, y + (points[2 * i + 1] + 0.5) * scale];
}

export class PairView {
  private pair: Pair | null = null;
  private placed: [Placed, Placed] | null = null;
  private chosen = -1;
  private width = 0; // of the parent, px
  private images: HTMLCanvasElement | null = null;

  /** @param onChoose receives the chosen match, −1 for none */
  constructor(
    readonly canvas: HTMLCanvasElement,
    private readonly onChoose: (match: number) => void = () => {},
  ) {
    canvas.addEventListener("pointermove", (event) => this.pick(event));
    canvas.addEventListener("pointerdown", (event) => this.pick(event));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") this.choose(-1);
    });
    canvas.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => {
      if (canvas.parentElement?.clientWidth !== this.width) this.relayout();
    }).observe(canvas.parentElement ?? canvas);
  }

  show(pair: Pair | null): void {
    this.pair = pair;
    this.chosen = -1;
    this.relayout();
  }

  private relayout(): void {
    const width = this.canvas.parentElement?.clientWidth ?? 0;
    if (!this.pair || width === 0) return;
    this.width = width;
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    const sizes = this.pair.images.map((c) => [c.width, c.height]) as [
      [number, number],
      [number, number],
    ];
    const { placed, height } = layout(sizes, Math.round(width * ratio), width < 560);
    this.placed = placed;
    this.images = newCanvas(Math.round(width * ratio), height);
    const context = this.images.getContext("2d");
    this.pair.images.forEach((image, i) => {
      const { x, y, scale } = placed[i];
      context?.drawImage(image, x, y, image.width * scale, image.height * scale);
    });
    this.canvas.width = this.images.width;
    this.canvas.height = this.images.height;
    this.draw();
  }

  private draw(): void {
    const context = this.canvas.getContext("2d");
    if (!context || !this.pair || !this.placed || !this.images) return;
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.images, 0, 0);
    const { confidence } = this.pair.matched;
    const faded = this.chosen >= 0;
    // The most confident matches are drawn last, on top.
    const order = [...confidence.keys()].sort((a, b) => confidence[a] - confidence[b]);
    for (const i of order) this.line(context, i, faded ? 0.12 : 0.75, 1.25);
    if (faded) this.line(context, this.chosen, 1, 3);
  }

  private line(context: CanvasRenderingContext2D, i: number, alpha: number, width: number): void {
    const { matched } = this.pair!;
    const ends = [matched.points0, matched.points1].map((points, side) =>
      onCanvas(points, i, this.placed![side]),
    );
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    context.globalAlpha = alpha;
    context.lineWidth = width * ratio;
    context.strokeStyle = context.fillStyle = confidenceColor(matched.confidence[i]);
    context.beginPath();
    context.moveTo(...(ends[0] as [number, number]));
    context.lineTo(...(ends[1] as [number, number]));
    context.stroke();
    for (const [x, y] of ends) {
      context.beginPath();
      context.arc(x, y, (width + 1) * ratio, 0, 2 * Math.PI);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  private pick(event: PointerEvent): void {
    if (!this.pair || !this.placed) return;
    const box = this.canvas.getBoundingClientRect();
    const factor = this.canvas.width / box.width;
    const x = (event.clientX - box.left) * factor;
    const y = (event.clientY - box.top) * factor;
    this.choose(nearestMatch(this.pair, this.placed, x, y));
  }

  private onKey(event: KeyboardEvent): void {
    const count = this.pair?.matched.confidence.length ?? 0;
    const steps: Record<string, number> = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (event.key === "Escape") this.choose(-1);
    else if (count > 0 && event.key in steps) {
      const from = this.chosen < 0 && steps[event.key] < 0 ? 0 : this.chosen;
      this.choose((from + steps[event.key] + count) % count);
      event.preventDefault();
    }
  }

  private choose(match: number): void {
    if (match === this.chosen) return;
    this.chosen = match;
    this.draw();
    this.onChoose(match);
  }
}
