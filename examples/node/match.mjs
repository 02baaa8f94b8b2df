// Match two photographs with featherglue's end-to-end graphs.
//
//     node match.mjs GRAPHS IMAGE0 IMAGE1
//
// GRAPHS is a folder with extract.onnx and match.onnx; images are PNG or JPEG files. Each line of the
// output is a match: x and y in image 0, x and y in image 1 (pixels), and the confidence.
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import jpeg from "jpeg-js";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { PNG } from "pngjs";

/** Run `action`; name the file if it fails. */
async function naming(path, action) {
  try {
    return await action();
  } catch (error) {
    throw new Error(`${path}: ${error.message}`, { cause: error });
  }
}

/** Decode a file into RGBA pixels: {width, height, data}. */
function decode(bytes) {
  if (bytes[0] === 0xff && bytes[1] === 0xd8) {
    return jpeg.decode(bytes, { useTArray: true, tolerantDecoding: false });
  }
  if (bytes.toString("latin1", 1, 4) === "PNG") return PNG.sync.read(bytes);
  throw new Error("neither a PNG nor a JPEG file");
}

/** Convert RGBA pixels to a gray tensor (1, 1, H, W) uint8, with the weights and rounding of OpenCV. */
function toGray({ width, height, data }) {
  if (width < 8 || height < 8) throw new Error("needs sides of at least 8 pixels");
  const gray = new Uint8Array(width * height);
  for (let i = 0; i < gray.length; i++) {
    const [red, green, blue] = [data[4 * i], data[4 * i + 1], data[4 * i + 2]];
    gray[i] = (9798 * red + 19235 * green + 3735 * blue + 16384) >> 15;
  }
  return new Tensor("uint8", gray, [1, 1, height, width]);
}

/** Compute the features of an image: keypoints (K, 2), scores (K,), descriptors (K, D), image_size. */
async function extract(extractor, path) {
  return naming(path, async () => {
    const image = toGray(decode(await readFile(path)));
    const [height, width] = image.dims.slice(2);
    const features = await extractor.run({ image });
    return { ...features, image_size: new Tensor("float32", [width, height], [2]) };
  });
}

/** Match two sets of features: matches (K,) int64, −1 for none, and confidence (K,). */
function match(matcher, ...views) {
  const inputs = {};
  for (const [i, features] of views.entries()) {
    for (const [name, tensor] of Object.entries(features)) inputs[`${name}${i}`] = tensor;
  }
  return matcher.run(inputs);
}

async function main(folder, path0, path1) {
  const open = (name) => {
    const path = join(folder, name);
    // The graphs are small: more than two threads seldom pay.
    return naming(path, async () => InferenceSession.create(path, { intraOpNumThreads: 2 }));
  };
  const extractor = await open("extract.onnx");
  const matcher = await open("match.onnx");
  const features0 = await extract(extractor, path0);
  const features1 = await extract(extractor, path1);
  const { matches, confidence } = await match(matcher, features0, features1);

  const position = ({ keypoints }, index) =>
    [0, 1].map((axis) => keypoints.data[2 * index + axis].toFixed(3)).join(",");
  console.log("x0,y0,x1,y1,confidence");
  matches.data.forEach((value, index0) => {
    const index1 = Number(value); // int64 elements are BigInt
    if (index1 < 0) return;
    const points = `${position(features0, index0)},${position(features1, index1)}`;
    console.log(`${points},${confidence.data[index0].toFixed(5)}`);
  });
}

const paths = process.argv.slice(2);
if (paths.length !== 3) {
  console.error("usage: node match.mjs GRAPHS IMAGE0 IMAGE1");
  process.exitCode = 2;
} else {
  await main(...paths).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
