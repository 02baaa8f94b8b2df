import { describe, expect, it } from "vitest";
import { checkPair, readGraphInfo, type GraphInfo } from "../../src/engine/metadata";

const METADATA: Record<string, string> = {
  interface: "1",
  graph: "extract",
  model: "fast",
  fingerprint: "abc",
  size: "null",
  num_keypoints: "512",
};

const bytes = (field: number, content: Uint8Array | string): number[] => {
  const data = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const length = data.length < 128 ? [data.length] : [(data.length & 127) | 128, data.length >> 7];
  return [(field << 3) | 2, ...length, ...data];
};

/** An ONNX file with metadata, a version number and an empty graph. */
function model(metadata: Record<string, string>): Uint8Array {
  const entries = Object.entries(metadata).flatMap(([key, value]) =>
    bytes(14, Uint8Array.from([...bytes(1, key), ...bytes(2, value)])),
  );
  return Uint8Array.from([0x08, 9, ...bytes(7, new Uint8Array(200)), ...entries]);
}

describe("readGraphInfo", () => {
  it("reads the metadata", () => {
    expect(readGraphInfo(model(METADATA), "extract.onnx")).toEqual({
      graph: "extract",
      model: "fast",
      fingerprint: "abc",
      numKeypoints: 512,
      size: null,
    });
    expect(readGraphInfo(model({ ...METADATA, size: "[640, 480]" }), "a").size).toEqual([640, 480]);
  });

  it.each([
    ["another version", { ...METADATA, interface: "2" }, /a\.onnx: .*version 2.*reads version 1/],
    ["a graph of other software", {}, /a\.onnx: not an end-to-end graph/],
    ["the whole pipeline", { ...METADATA, graph: "pipeline" }, /use extract\.onnx and match\.onnx/],
    ["no number of keypoints", { ...METADATA, num_keypoints: "" }, /number of keypoints/],
    ["a damaged size", { ...METADATA, size: "[1]" }, /image size/],
    ["a damaged size text", { ...METADATA, size: "{" }, /image size/],
  ])("names %s", (_, metadata, message) => {
    expect(() => readGraphInfo(model(metadata as Record<string, string>), "a.onnx")).toThrow(message);
  });

  it("names every truncated or random file", () => {
    const whole = model(METADATA);
    for (let length = 0; length < whole.length; length++) {
      expect(() => readGraphInfo(whole.subarray(0, length), "a.onnx")).toThrow(/^a\.onnx: /);
    }
    const random = Uint8Array.from({ length: 4000 }, (_, i) => (i * i * 31 + 7) & 255);
    for (let start = 0; start < 300; start++) {
      expect(() => readGraphInfo(random.subarray(start), "a.onnx")).toThrow(/^a\.onnx: /);
    }
  });
});

describe("checkPair", () => {
  const info = (change: Partial<GraphInfo>): GraphInfo => ({
    ...readGraphInfo(model(METADATA), "extract.onnx"),
    ...change,
  });

  it("accepts the two graphs of one export", () => {
    expect(() => checkPair(info({}), info({ graph: "match" }))).not.toThrow();
  });

  it("names two of a kind and graphs of different exports", () => {
    expect(() => checkPair(info({}), info({}))).toThrow("Both files are extract.onnx");
    const other = info({ graph: "match", fingerprint: "def" });
    expect(() => checkPair(info({}), other)).toThrow("different exports");
  });
});
