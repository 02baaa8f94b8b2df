/**
 * WebAssembly threads need a page with cross-origin headers. A host that cannot send them, such as
 * GitHub Pages, gets them from a service worker, which takes effect after one reload.
 */
const RELOADED = "featherglue-isolation-reload";

async function isolate(): Promise<void> {
  if (self.crossOriginIsolated || !self.isSecureContext || !("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register("isolation-worker.js");
  await navigator.serviceWorker.ready;
  if (sessionStorage.getItem(RELOADED)) return; // it does not help: go on with one thread
  sessionStorage.setItem(RELOADED, "1");
  location.reload();
}

isolate().catch((error: unknown) => console.warn("no threads:", error));
