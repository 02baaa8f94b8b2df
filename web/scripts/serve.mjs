// Serves the built page on localhost, with the cross-origin headers that WebAssembly threads need
// and compressed as a static host would.
//
//     node scripts/serve.mjs [--port 8080] [--folder dist] [--no-isolation]
import { readFile, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, normalize, resolve, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { gzip } from "node:zlib";

const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".jpg": "image/jpeg",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".onnx": "application/octet-stream",
  ".svg": "image/svg+xml",
  ".wasm": "application/wasm",
};
const ISOLATION = {
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Opener-Policy": "same-origin",
};

const compressed = new Map(); // contents by path and time of change

async function compress(file, mtime) {
  const key = `${file} ${mtime}`;
  if (!compressed.has(key)) compressed.set(key, readFile(file).then(promisify(gzip)));
  return compressed.get(key);
}

/** Start a server of a folder; port 0 chooses a free one. */
export async function serve(folder, port = 0, isolation = true) {
  const root = resolve(folder);
  const server = createServer((request, response) => {
    const { socket } = request;
    const before = socket.bytesWritten;
    response.on("close", () => (server.sent += socket.bytesWritten - before));
    answer(root, isolation, request, response).catch(() => {
      if (!response.headersSent) response.writeHead(404, { "Content-Type": "text/plain" });
      response.end("not found");
    });
  });
  server.sent = 0; // bytes of all responses
  await new Promise((done, failed) => {
    server.once("error", failed);
    server.listen(port, "127.0.0.1", done);
  });
  return server;
}

async function answer(root, isolation, request, response) {
  const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  const file = normalize(join(root, path.endsWith("/") ? `${path}index.html` : path));
  if (!file.startsWith(root + sep)) throw new Error("not found");
  const found = await stat(file);
  if (!found.isFile()) throw new Error("not found");
  const extension = extname(file);
  const zipped = extension !== ".jpg" && /\bgzip\b/.test(request.headers["accept-encoding"] ?? "");
  const content = await (zipped ? compress(file, found.mtimeMs) : readFile(file));
  response.writeHead(200, {
    "Content-Type": TYPES[extension] ?? "application/octet-stream",
    "Content-Length": content.length,
    "Cache-Control": "no-cache",
    ...(zipped ? { "Content-Encoding": "gzip" } : {}),
    ...(isolation ? ISOLATION : {}),
  });
  response.end(request.method === "HEAD" ? undefined : content);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "8080" },
      folder: { type: "string", default: fileURLToPath(new URL("../dist", import.meta.url)) },
      "no-isolation": { type: "boolean", default: false },
    },
  });
  const server = await serve(values.folder, Number(values.port), !values["no-isolation"]);
  console.log(`http://localhost:${server.address().port}/  (Ctrl+C ends)`);
}
