/** The page's side of the workers that run the models. */
import moduleUrl from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasmUrl from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import type { Reply, RequestName, Requests, WorkerOptions } from "./protocol";
import { threadCount } from "./support";

interface Waiting {
  resolve: (reply: never) => void;
  reject: (error: Error) => void;
}

type Load = Requests["load"]["request"];

/** A worker and the requests that wait for it. */
class Client {
  private readonly worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  private readonly waiting = new Map<number, Waiting>();
  private lastId = 0;

  constructor(threads: number) {
    this.worker.onmessage = ({ data }: MessageEvent<Reply>) => this.settle(data);
    this.worker.onerror = (event) => this.fail(event.message || "the file could not be loaded");
    const absolute = (url: string) => new URL(url, document.baseURI).href;
    const options: WorkerOptions = {
      threads,
      moduleUrl: absolute(moduleUrl),
      wasmUrl: absolute(wasmUrl),
    };
    this.worker.postMessage(options);
  }

  request<Name extends RequestName>(
    name: Name,
    request: Requests[Name]["request"],
    transfer: Transferable[],
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

/**
 * Runs the models in workers. Pairs have one worker with all threads. Of a video, a second worker
 * extracts a frame while a third one matches the frame before, each with half of the threads: two
 * threads of one worker wait for each other most of the time.
 */
export class Engine {
  readonly threads = threadCount();
  private readonly all = new Client(this.threads);
  private readonly videoClients = new Map<RequestName, Client>();
  private readonly loads = new Map<string, Load>();

  /** Send a request; rejects with a message for the user. Buffers in `transfer` move. */
  async request<Name extends RequestName>(
    name: Name,
    request: Requests[Name]["request"],
    transfer: Transferable[] = [],
  ): Promise<Requests[Name]["reply"]> {
    const reply = await this.client(name).request(name, request, transfer);
    if (name === "load") this.loaded(request as Load);
    return reply;
  }

  /** Free the memory of a model in all workers. */
  async unload(key: string): Promise<void> {
    this.loads.delete(key);
    const clients = [this.all, ...this.videoClients.values()];
    await Promise.all(clients.map((client) => client.request("unload", { key }, [])));
  }

  /** The worker of a kind of request. The workers for videos start when they are needed. */
  private client(name: RequestName): Client {
    if (this.threads === 1 || name === "load" || name === "pair") return this.all;
    const role = name === "extract" ? "extract" : "track";
    let client = this.videoClients.get(role);
    if (!client) {
      client = new Client(Math.floor(this.threads / 2));
      this.videoClients.set(role, client);
      for (const load of this.loads.values()) void client.request("load", load, []);
    }
    return client;
  }

  private loaded(load: Load): void {
    this.loads.set(load.key, load);
    for (const client of this.videoClients.values()) void client.request("load", load, []);
  }
}
