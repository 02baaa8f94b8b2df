/** Reads the metadata of an ONNX file: the top level of its protocol buffer. */

/** A file that is not one of our graphs; the message is for the user. */
export class GraphError extends Error {
  override name = "GraphError";
}

export type GraphName = "extract" | "match";

export interface GraphInfo {
  graph: GraphName;
  model: string;
  fingerprint: string;
  /** Number of places for keypoints. */
  numKeypoints: number;
  /** [width, height] of the images in px, or null for any size. */
  size: [number, number] | null;
}

/** Version of the names, shapes and meaning of inputs, outputs and metadata that this page reads. */
export const INTERFACE = "1";

const METADATA_PROPS = 14; // field of ModelProto
const [VARINT, FIXED64, BYTES, FIXED32] = [0, 1, 2, 5];

/**
 * Read and check the metadata of a graph.
 *
 * @param file name of the file, for messages
 * @throws GraphError: corrupt, no graph of featherglue, or of another version
 */
export function readGraphInfo(bytes: Uint8Array, file: string): GraphInfo {
  const metadata = readMetadata(bytes, file);
  const version = metadata.get("interface");
  if (version === undefined) {
    throw new GraphError(
      `${file}: not an end-to-end graph of featherglue. ` +
        "Export with: featherglue export --end-to-end",
    );
  }
  if (version !== INTERFACE) {
    throw new GraphError(
      `${file}: a graph of interface version ${version}, but this page reads version ` +
        `${INTERFACE}. Export it with the featherglue version of this page.`,
    );
  }
  const graph = metadata.get("graph");
  if (graph !== "extract" && graph !== "match") {
    throw new GraphError(`${file}: a graph of kind “${graph}”; use extract.onnx and match.onnx.`);
  }
  const numKeypoints = Number(metadata.get("num_keypoints"));
  if (!Number.isInteger(numKeypoints) || numKeypoints < 1) {
    throw new GraphError(`${file}: the number of keypoints is missing. Export it again.`);
  }
  return {
    graph,
    numKeypoints,
    model: metadata.get("model") || "model",
    fingerprint: metadata.get("fingerprint") ?? "",
    size: parseSize(metadata.get("size") ?? "null", file),
  };
}

/**
 * Check that two graphs belong together.
 *
 * @throws GraphError: two of a kind, or from different exports
 */
export function checkPair(first: GraphInfo, second: GraphInfo): void {
  if (first.graph === second.graph) {
    throw new GraphError(
      `Both files are ${first.graph}.onnx. Choose extract.onnx and match.onnx of one export.`,
    );
  }
  if (first.fingerprint !== second.fingerprint || first.numKeypoints !== second.numKeypoints) {
    throw new GraphError(
      "extract.onnx and match.onnx are from different exports. Choose both from one folder.",
    );
  }
}

function parseSize(text: string, file: string): [number, number] | null {
  try {
    const value: unknown = JSON.parse(text);
    if (value === null) return null;
    if (Array.isArray(value) && value.length === 2 && value.every((side) => side > 0)) {
      return [Number(value[0]), Number(value[1])];
    }
  } catch {
    // named below
  }
  throw new GraphError(`${file}: the image size in its metadata is damaged. Export it again.`);
}

/** Keys and values of the metadata of an ONNX model. */
function readMetadata(bytes: Uint8Array, file: string): Map<string, string> {
  const found = new Map<string, string>();
  try {
    for (const [field, value] of fields(bytes)) {
      if (field !== METADATA_PROPS) continue;
      const entry = new Map([...fields(value)].map(([place, text]) => [place, decode(text)]));
      found.set(entry.get(1) ?? "", entry.get(2) ?? "");
    }
  } catch {
    throw new GraphError(`${file}: not an ONNX file, or damaged.`);
  }
  if (bytes.length === 0) throw new GraphError(`${file}: the file is empty.`);
  return found;
}

const decode = (bytes: Uint8Array): string => new TextDecoder("utf-8", { fatal: true }).decode(bytes);

/** Length-delimited fields of a protocol buffer message; other fields are skipped. */
function* fields(bytes: Uint8Array): Generator<[number, Uint8Array]> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length || factor > 2 ** 63) throw new RangeError("damaged");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const kind = tag % 8;
    if (tag < 8) throw new RangeError("damaged");
    if (kind === VARINT) varint();
    else if (kind === FIXED64) at += 8;
    else if (kind === FIXED32) at += 4;
    else if (kind === BYTES) {
      const length = varint();
      if (at + length > bytes.length) throw new RangeError("damaged");
      yield [Math.floor(tag / 8), bytes.subarray(at, at + length)];
      at += length;
    } else throw new RangeError("damaged");
    if (at > bytes.length) throw new RangeError("damaged");
  }
}
