import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { crc32 } from "../../src/files/npz";
import { toJson, toNpz, type PairResult } from "../../src/files/results";
import { resizeMap } from "../../src/geometry/matrix3";

// Photo 0 was matched at half its size.
const PAIR: PairResult = {
  model: "fast",
  images: [
    { name: "a.jpg", width: 800, height: 600, matchedWidth: 400, matchedHeight: 300 },
    { name: "b.jpg", width: 400, height: 300, matchedWidth: 400, matchedHeight: 300 },
  ],
  result: {
    keypoints0: { points: Float32Array.of(0, 0, 10, 20, 5, 5), scores: Float32Array.of(0.9, 0.5, 0.1) },
    keypoints1: { points: Float32Array.of(11, 21, 1, 1), scores: Float32Array.of(0.8, 0.4) },
    matches: Int32Array.of(1, 0, -1),
    confidence: Float32Array.of(0.9, 0.3, 0),
    times: { gray: 0, extract: 0, match: 0, geometry: 0 },
  },
  minConfidence: 0.5,
  homography: {
    model: Float64Array.of(1, 0, 1, 0, 1, 1, 0, 0, 1),
    inliers: Uint8Array.of(1),
    numInliers: 1,
  },
};

describe("toJson", () => {
  it("has the shown matches in pixels of the files", () => {
    const saved = JSON.parse(toJson(PAIR));
    expect(saved.matches).toEqual([{ point0: [0.5, 0.5], point1: [1, 1], confidence: 0.9, inlier: true }]);
    expect(saved.image0).toEqual({ name: "a.jpg", width: 800, height: 600 });
    const [[a, , c]] = saved.H_0to1;
    const half = resizeMap(0.5, 0.5);
    expect(a).toBeCloseTo(0.5);
    expect(c).toBeCloseTo(half[2] + 1);
  });

  it("has no homography and no inliers where none was found", () => {
    const saved = JSON.parse(toJson({ ...PAIR, homography: null }));
    expect(saved.H_0to1).toBeNull();
    expect(saved.matches[0].inlier).toBeNull();
  });
});

describe("toNpz", () => {
  it("is an archive that other programs read", () => {
    const folder = mkdtempSync(join(tmpdir(), "featherglue-npz-"));
    const path = join(folder, "matches.npz");
    writeFileSync(path, toNpz(PAIR));
    // zipfile checks sizes and CRCs; the arrays are read as the NumPy format describes them.
    const program = `
import ast, struct, sys, zipfile
archive = zipfile.ZipFile(sys.argv[1])
assert archive.testzip() is None
for name in archive.namelist():
    data = archive.read(name)
    assert data[:8] == b"\\x93NUMPY\\x01\\x00"
    length = struct.unpack("<H", data[8:10])[0]
    assert (10 + length) % 64 == 0 and data[9 + length:10 + length] == b"\\n"
    header = ast.literal_eval(data[10:10 + length].decode())
    kind = {"<f4": "f", "<i8": "q"}[header["descr"]]
    body = data[10 + length:]
    values = struct.unpack(f"<{len(body) // struct.calcsize(kind)}{kind}", body)
    print(name, header["shape"], [round(v, 3) for v in values])
`;
    const output = execFileSync("python3", ["-c", program, path], { encoding: "utf8" });
    rmSync(folder, { recursive: true });
    expect(output.trim().split("\n")).toEqual([
      "keypoints0.npy (3, 2) [0.5, 0.5, 20.5, 40.5, 10.5, 10.5]",
      "keypoints1.npy (2, 2) [11.0, 21.0, 1.0, 1.0]",
      "matches.npy (3,) [1, -1, -1]",
      "match_confidence.npy (3,) [0.9, 0.0, 0.0]",
    ]);
  });

  it("has the standard checksum", () => {
    expect(crc32(new TextEncoder().encode("123456789"))).toBe(0xcbf43926);
  });
});
