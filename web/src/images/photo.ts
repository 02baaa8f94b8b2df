/** Reading, scaling and pixels of images. Nothing is uploaded: files are decoded in the browser. */
import type { Pixels } from "../engine/protocol";

/** A file that is not a readable image; the message is for the user. */
export class PhotoError extends Error {
  override name = "PhotoError";
}

/** An image as it is kept in memory: its longest side is at most `MAX_KEPT_SIDE`. */
export interface Photo {
  name: string;
  /** Size of the file, px. */
  width: number;
  height: number;
  canvas: HTMLCanvasElement;
}

export const MAX_KEPT_SIDE = 2048;
const MAX_FILE_BYTES = 500_000_000;
const MIN_SIDE = 8;

/** Decode an image file, upright by its EXIF orientation. @throws PhotoError */
export async function readPhoto(file: Blob, name: string): Promise<Photo> {
  if (file.size === 0) throw new PhotoError(`${name}: the file is empty.`);
  if (file.size > MAX_FILE_BYTES) throw new PhotoError(`${name}: the file is larger than 500 MB.`);
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new PhotoError(
      `${name}: not an image that this browser reads, damaged, or too large. ` +
        "Use JPEG, PNG, WebP, GIF or AVIF.",
    );
  }
  try {
    const { width, height } = bitmap;
    if (Math.min(width, height) < MIN_SIDE) {
      throw new PhotoError(`${name}: ${width}×${height} px is too small to match.`);
    }
    const size = fittingSize(width, height, MAX_KEPT_SIDE);
    return { name, width, height, canvas: scaledCanvas(bitmap, size) };
  } finally {
    bitmap.close();
  }
}

/** Width and height with the same ratio, whose longest side is at most `maxSide`. */
export function fittingSize(width: number, height: number, maxSide: number): [number, number] {
  const factor = Math.min(1, maxSide / Math.max(width, height));
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
}

/** A copy of an image, whose longest side is at most `maxSide`. */
export function resized(photo: Photo, maxSide: number): HTMLCanvasElement {
  const { canvas } = photo;
  const size = fittingSize(photo.width, photo.height, Math.min(maxSide, MAX_KEPT_SIDE));
  return size[0] === canvas.width && size[1] === canvas.height ? canvas : scaledCanvas(canvas, size);
}

export function pixelsOf(canvas: HTMLCanvasElement): Pixels {
  const image = context2d(canvas).getImageData(0, 0, canvas.width, canvas.height);
  return { data: image.data as Pixels["data"], width: canvas.width, height: canvas.height };
}

export function context2d(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (!context) throw new PhotoError("This browser has no memory left for images. Close other tabs.");
  return context;
}

export function newCanvas(width: number, height: number): HTMLCanvasElement {
  return Object.assign(document.createElement("canvas"), { width, height });
}

function scaledCanvas(source: CanvasImageSource, [width, height]: [number, number]) {
  const canvas = newCanvas(width, height);
  const context = context2d(canvas);
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind transparent pixels
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return canvas;
}
