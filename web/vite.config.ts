import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  resolve: {
    // The WebAssembly files of ONNX Runtime stay files of their own, for its threads to load.
    conditions: ["onnxruntime-web-use-extern-wasm", "module", "browser", "import", "default"],
  },
  worker: { format: "es" },
  build: {
    target: "es2022",
    assetsInlineLimit: 0,
    chunkSizeWarningLimit: 1000,
  },
});
