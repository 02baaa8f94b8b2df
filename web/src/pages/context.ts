import type { Catalog } from "../engine/catalog";
import type { Engine } from "../engine/engine";

/** What all pages share. */
export interface Context {
  engine: Engine;
  catalog: Catalog;
}

export interface Page {
  /** The page is visible or not. */
  setVisible(visible: boolean): void;
  /** Files were pasted, or dropped beside the places for them. */
  take(files: File[]): Promise<void>;
  /** The list of models has changed. */
  modelsChanged(): void;
}
