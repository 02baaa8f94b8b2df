/** The page's side of the worker that runs the models. */
import moduleUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import type { Reply, RequestName, Requests, WorkerOptions } from "./protocol";
import { threadCount } from "./support";

interface Waiting {
  resolve: (reply: never) => void;
  reject: (error: Error) => void;
}

export class Engine {
  readonly threads = threadCount();
  private readonly worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;

  constructor() {
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.settle(data);
    this.worker.onerror = (event) => this.fail(event.message || "the file could not be loaded");
    const absolute = (url: string) => new URL(url, document.baseURI).href;
    const options: WorkerOptions = {
      threads: this.threads,
      moduleUrl: absolute(moduleUrl),
      wasmUrl: absolute(wasmUrl),
    };
    this.worker.postMessage(options);
  }

  /** Send a request; rejects with a message for the user. Buffers in `transfer` move. */
  request<Name extends RequestName>(
    name: Name,
    request: Requests[Name]["request"],
    transfer: Transferable[] = [],
  ): Promise<Requests[Name]["reply"]> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, name, request }, transfer);
    });
  }

  private settle(data: Reply): void {
    const waiting = this.waiting.get(data.id);
    this.waiting.delete(data.id);
    if ("error" in data) waiting?.reject(new Error(data.error));
    else waiting?.resolve(data.reply as never);
  }

  private fail(reason: string): void {
    const error = new Error(`The matcher stopped (${reason}). Reload the page.`);
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }
}
