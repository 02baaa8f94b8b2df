/** What the browser can do. */

// A module with one function that uses a 128-bit vector.
const SIMD_MODULE = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11,
);

/** The reason why this browser cannot run the models, or null. */
export function missingSupport(): string | null {
  if (typeof WebAssembly !== "object") {
    return "This browser has no WebAssembly, which the matcher needs. Use a current browser.";
  }
  if (!WebAssembly.validate(SIMD_MODULE)) {
    return (
      "This browser has no WebAssembly SIMD, which the matcher needs. Use Chrome or Edge 91, " +
      "Firefox 89, Safari 16.4, or a later version."
    );
  }
  return null;
}

/** Number of threads: one without the cross-origin headers. `?threads=N` overrides. */
export function threadCount(search: string = location.search): number {
  if (!self.crossOriginIsolated) return 1;
  const wanted = Number(new URLSearchParams(search).get("threads"));
  if (Number.isInteger(wanted) && wanted >= 1) return Math.min(wanted, 16);
  return Math.max(1, Math.min(4, navigator.hardwareConcurrency ?? 1));
}
