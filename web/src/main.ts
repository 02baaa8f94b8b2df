/** Starts the site: checks the browser, loads the first model and connects the pages. */
import { Catalog } from "./engine/catalog";
import { Engine } from "./engine/engine";
import { missingSupport } from "./engine/support";
import { ComparePage } from "./pages/compare";
import { LivePage } from "./pages/live";
import { PhotosPage } from "./pages/photos";
import type { Page } from "./pages/context";
import { byId } from "./ui/dom";
import { clearError, showError, status } from "./ui/messages";
import { connectTabs } from "./ui/tabs";

async function start(): Promise<void> {
  byId("error-close", HTMLButtonElement).addEventListener("click", clearError);
  const missing = missingSupport();
  if (missing) throw new Error(missing);
  const engine = new Engine();
  const catalog = await Catalog.open(engine);
  // The first model loads while the user chooses photos.
  catalog.load(catalog.names[0], 512).then(
    () => status("Ready."),
    (error: unknown) => showError(error),
  );
  const context = { engine, catalog };
  const photos = new PhotosPage(context);
  const live = new LivePage(context);
  const compare = new ComparePage(context, photos, () => {
    photos.modelsChanged();
    live.modelsChanged();
  });
  const pages: Record<string, Page> = { photos, live, compare };
  let visible: Page = photos;
  connectTabs(byId("tabs", HTMLElement), (name) => {
    for (const [other, page] of Object.entries(pages)) page.setVisible(other === name);
    visible = pages[name];
  });
  const threads = engine.threads === 1 ? "1 thread" : `${engine.threads} threads`;
  byId("machine", HTMLElement).textContent = `WebAssembly, ${threads}.`;
  const isGraph = (file: File) => file.name.toLowerCase().endsWith(".onnx");
  acceptFiles((files) => void (files.some(isGraph) ? compare : visible).take(files));
  document.documentElement.dataset.ready = "true";
}

/** Take images that are pasted, or dropped beside the places for them. */
function acceptFiles(take: (files: File[]) => void): void {
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length > 0) take(files);
  });
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer?.files.length) take([...event.dataTransfer.files]);
  });
}

start().catch((error: unknown) => {
  showError(error);
  document.documentElement.dataset.ready = "false";
});
