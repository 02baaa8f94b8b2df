/** Draws a frame and what was found in it. Positions are those of the matched, smaller images. */
import type { TrackResult } from "../engine/protocol";
import type { MatchedPoints } from "../geometry/matches";
import { multiply, resizeMap, type Matrix3 } from "../geometry/matrix3";
import { context2d, pixelsOf } from "../images/photo";
import { confidenceColor } from "./colors";
import { outline, warpOnto } from "./warp";

export interface LiveFrame {
  /** The frame as it is shown. */
  picture: HTMLCanvasElement;
  /** Size at which it was matched, px. */
  width: number;
  height: number;
  result: TrackResult | null;
  matched: MatchedPoints | null;
}

const LEVELS = 8; // colors of one drawing
const OPACITY = 0.75; // of the picture on the reference

/** Draw the motion of each match since the previous frame. */
export function drawMotion(canvas: HTMLCanvasElement, frame: LiveFrame): void {
  const context = drawPicture(canvas, frame);
  if (!frame.matched) return;
  const scale = frame.picture.width / frame.width;
  drawLines(context, frame.matched, { x: 0, scale }, { x: 0, scale });
}

/** Draw the reference beside the frame, with lines between their matches. */
export function drawBeside(
  canvas: HTMLCanvasElement,
  frame: LiveFrame,
  reference: HTMLCanvasElement,
): void {
  const { picture } = frame;
  const scale0 = picture.height / reference.height;
  const left = Math.round(reference.width * scale0);
  setSize(canvas, left + picture.width, picture.height);
  const context = shownContext(canvas);
  context.drawImage(reference, 0, 0, left, picture.height);
  context.drawImage(picture, left, 0);
  if (!frame.matched) return;
  const scale1 = picture.width / frame.width;
  drawLines(context, frame.matched, { x: 0, scale: scale0 }, { x: left, scale: scale1 });
}

/** Draw the outline of the reference in the frame, with a picture on it. */
export function drawAugmented(
  canvas: HTMLCanvasElement,
  frame: LiveFrame,
  reference: HTMLCanvasElement,
  picture: HTMLCanvasElement,
  H: Matrix3 | null,
): void {
  const context = drawPicture(canvas, frame);
  if (H === null) return;
  const shown = multiply(
    resizeMap(frame.picture.width / frame.width, frame.picture.height / frame.height),
    H,
  );
  const corners = outline(reference.width, reference.height, shown);
  if (corners === null) return;
  const target = pixelsOf(frame.picture);
  const toReference = resizeMap(reference.width / picture.width, reference.height / picture.height);
  warpOnto(target, pixelsOf(picture), multiply(shown, toReference), OPACITY);
  context.putImageData(new ImageData(target.data, target.width, target.height), 0, 0);
  context.strokeStyle = "#00e5c0";
  context.lineWidth = 3;
  context.beginPath();
  corners.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.stroke();
}

function drawPicture(canvas: HTMLCanvasElement, { picture }: LiveFrame): CanvasRenderingContext2D {
  setSize(canvas, picture.width, picture.height);
  const context = shownContext(canvas);
  context.drawImage(picture, 0, 0);
  return context;
}

/** The context of a canvas that may be recorded: Chromium records none that is read frequently. */
function shownContext(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  return canvas.getContext("2d") ?? context2d(canvas);
}

function setSize(canvas: HTMLCanvasElement, width: number, height: number): void {
  if (canvas.width === width && canvas.height === height) return;
  canvas.width = width;
  canvas.height = height;
}

interface Placed {
  x: number;
  scale: number;
}

/** One path for each level of confidence: a path for each match would take longer. */
function drawLines(
  context: CanvasRenderingContext2D,
  { points0, points1, confidence }: MatchedPoints,
  first: Placed,
  second: Placed,
): void {
  context.lineWidth = 1.5;
  for (let level = 0; level < LEVELS; level++) {
    context.beginPath();
    for (let i = 0; i < confidence.length; i++) {
      if (Math.min(Math.floor(confidence[i] * LEVELS), LEVELS - 1) !== level) continue;
      const x1 = second.x + (points1[2 * i] + 0.5) * second.scale;
      const y1 = (points1[2 * i + 1] + 0.5) * second.scale;
      context.moveTo(first.x + (points0[2 * i] + 0.5) * first.scale, (points0[2 * i + 1] + 0.5) * first.scale);
      context.lineTo(x1, y1);
      context.rect(x1 - 1.5, y1 - 1.5, 3, 3);
    }
    context.strokeStyle = confidenceColor((level + 0.5) / LEVELS);
    context.stroke();
  }
}
