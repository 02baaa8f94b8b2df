/** Chromium and a server of the built page. */
import type { Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import type { BrowserContext, Page } from "playwright-core";
import { startBrowser as start } from "../../scripts/browser.mjs";
import { serve } from "../../scripts/serve.mjs";

export { fakeCamera } from "../../scripts/browser.mjs";

export const WEB = new URL("../..", import.meta.url).pathname;

export interface Site {
  url: string;
  close: () => void;
}

/** Serve the built page, with or without the cross-origin headers. */
export async function serveSite(isolation = true): Promise<Site> {
  const server: Server = await serve(join(WEB, "dist"), 0, isolation);
  const { port } = server.address() as AddressInfo;
  const close = () => {
    server.close();
    server.closeAllConnections();
  };
  return { url: `http://localhost:${port}/`, close };
}

export interface Browser {
  context: BrowserContext;
  close: () => Promise<void>;
}

/** Start Chromium with an empty profile. */
export async function startBrowser(
  flags: string[] = [],
  viewport = { width: 1000, height: 800 },
): Promise<Browser> {
  const browser: Browser = await start(flags, { viewport });
  browser.context.setDefaultTimeout(60_000);
  return browser;
}

/** Open the page; errors of its scripts are added to `errors`. */
export async function openPage(browser: Browser, url: string, errors: string[]): Promise<Page> {
  const page = await browser.context.newPage();
  page.on("pageerror", (error) => errors.push(String(error)));
  await page.goto(url);
  await page.waitForSelector("html[data-ready]");
  return page;
}

/** Wait until the status line starts with a text. */
export async function waitForStatus(page: Page, start: string): Promise<void> {
  await page.waitForFunction(
    (text) => document.getElementById("status")?.textContent?.startsWith(text),
    start,
  );
}
