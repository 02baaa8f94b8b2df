/**
 * Luminance of RGBA pixels, row by row; alpha is ignored.
 *
 * The weights and the rounding are those of OpenCV, so that results equal those of the package.
 */
export function toGray(rgba: Uint8ClampedArray): Uint8Array<ArrayBuffer> {
  const gray = new Uint8Array(rgba.length / 4);
  for (let i = 0, k = 0; i < gray.length; i++, k += 4) {
    gray[i] = (9798 * rgba[k] + 19235 * rgba[k + 1] + 3735 * rgba[k + 2] + 16384) >> 15;
  }
  return gray;
}
