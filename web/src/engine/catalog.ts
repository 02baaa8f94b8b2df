/** The models that a page offers: those of the site, and the user's own. */
import type { Detection } from "./detection";
import { Engine } from "./engine";
import { checkPair, GraphError, readGraphInfo } from "./metadata";

/** A matching graph. Graphs with fewer places for keypoints are faster. */
interface Variant {
  numKeypoints: number;
  match: string;
}

interface ListedModel {
  name: string;
  /** The extractor's network, and how to find keypoints in its maps. */
  maps: string;
  detection: Detection;
  variants: Variant[];
}

/** Loads graphs into an engine, each once. */
export class Catalog {
  private readonly loading = new Map<string, Promise<string>>();
  private own: { name: string; numKeypoints: number; key: string } | null = null;
  private numOwn = 0;

  private constructor(
    private readonly engine: Engine,
    private readonly listed: ListedModel[],
  ) {}

  static async open(engine: Engine): Promise<Catalog> {
    const response = await fetch("models/index.json");
    if (!response.ok) throw new Error(`The list of models cannot be loaded (${response.status}).`);
    return new Catalog(engine, (await response.json()) as ListedModel[]);
  }

  /** Names of the models, those of the site first. */
  get names(): string[] {
    return [...this.listed.map((model) => model.name), ...(this.own ? [this.own.name] : [])];
  }

  /** Maximum number of keypoints of a model. */
  maxKeypoints(name: string): number {
    if (name === this.own?.name) return this.own.numKeypoints;
    return Math.max(...this.find(name).variants.map((variant) => variant.numKeypoints));
  }

  /** Load the fastest graphs of a model with room for keypoints; returns their key. */
  async load(name: string, numKeypoints: number): Promise<string> {
    if (name === this.own?.name) return this.own.key;
    const listed = this.find(name);
    const sorted = [...listed.variants].sort((a, b) => a.numKeypoints - b.numKeypoints);
    const variant = sorted.find((v) => v.numKeypoints >= numKeypoints) ?? sorted[sorted.length - 1];
    const key = `${name}-${variant.numKeypoints}`;
    let started = this.loading.get(key);
    if (!started) {
      started = this.download(key, listed, variant);
      this.loading.set(key, started);
      started.catch(() => this.loading.delete(key)); // the next request tries again
    }
    return started;
  }

  /**
   * Add the user's own model, in place of the one before.
   *
   * @param files extract.onnx and match.onnx of one export, in any order
   * @returns its name
   * @throws GraphError: not two files, damaged, of another version, or of different exports
   */
  async add(files: File[]): Promise<string> {
    if (files.length !== 2) {
      throw new GraphError(
        "Choose two files together: extract.onnx and match.onnx of one export.",
      );
    }
    const graphs = await Promise.all(
      files.map(async (file) => {
        const bytes = new Uint8Array(await file.arrayBuffer());
        return { bytes, info: readGraphInfo(bytes, file.name) };
      }),
    );
    checkPair(graphs[0].info, graphs[1].info);
    const [extract, match] = graphs[0].info.graph === "extract" ? graphs : [graphs[1], graphs[0]];
    const key = `own-${++this.numOwn}`;
    const { numKeypoints } = await this.engine.request("load", {
      key,
      extract: extract.bytes,
      match: match.bytes,
      detection: null,
    });
    const previous = this.own;
    this.own = { name: `${extract.info.model} (yours)`, numKeypoints, key };
    if (previous) await this.engine.unload(previous.key);
    return this.own.name;
  }

  private find(name: string): ListedModel {
    const found = this.listed.find((model) => model.name === name);
    if (!found) throw new Error(`No model is named ${name}.`);
    return found;
  }

  private async download(key: string, listed: ListedModel, variant: Variant): Promise<string> {
    const [extract, match] = await Promise.all(
      [listed.maps, variant.match].map(async (path) => {
        const response = await fetch(`models/${path}`);
        if (!response.ok) throw new Error(`${path} cannot be loaded (${response.status}).`);
        return new Uint8Array(await response.arrayBuffer());
      }),
    );
    const { detection } = listed;
    await this.engine.request("load", { key, extract, match, detection });
    return key;
  }
}
