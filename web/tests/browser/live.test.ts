import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { fakeCamera, openPage, serveSite, startBrowser, waitForStatus, WEB, type Browser, type Site } from "./harness";

const CAMERA = join(WEB, "build/camera.y4m");
declare global {
  interface Window {
    copyOfLive: () => CanvasRenderingContext2D;
  }
}

const errors: string[] = [];
let site: Site;
let browser: Browser;
let page: Page;

/** Number of matches and of inliers that the page shows. */
async function counts(): Promise<[number, number]> {
  const text = (await page.textContent("#live-summary")) ?? "";
  const [, matches = "0"] = /(\d+) matches/.exec(text) ?? [];
  const [, inliers = "0"] = /(\d+) inliers/.exec(text) ?? [];
  return [Number(matches), Number(inliers)];
}

async function waitForMatches(minimum: number): Promise<void> {
  await page.waitForFunction((least) => {
    const text = document.getElementById("live-summary")!.textContent!;
    return Number(/(\d+) matches/.exec(text)?.[1] ?? 0) >= least;
  }, minimum);
}

beforeAll(async () => {
  expect(existsSync(CAMERA)).toBe(true);
  site = await serveSite();
  browser = await startBrowser(fakeCamera(CAMERA));
  page = await openPage(browser, `${site.url}?threads=1#live`, errors);
  await addCopy();
});

/** Adds `copyOfLive`: Chromium does not record a canvas that is itself read often. */
async function addCopy(): Promise<void> {
  await page.evaluate(() => {
    window.copyOfLive = () => {
      const live = document.getElementById("live-canvas") as HTMLCanvasElement;
      const { width, height } = live;
      const copy = Object.assign(document.createElement("canvas"), { width, height });
      const context = copy.getContext("2d")!;
      context.drawImage(live, 0, 0);
      return context;
    };
  });
}

afterAll(async () => {
  await browser?.close();
  site?.close();
});

describe("live with a camera", () => {
  it("matches each frame with the one before", async () => {
    await page.click("#use-camera");
    await waitForMatches(60);
    const cells = await page.locator("#live-times td").allTextContents();
    expect(cells).toHaveLength(7);
    const times = cells.map(Number);
    const rate = times.pop()!;
    expect(Math.min(...times.slice(2, 4))).toBeGreaterThan(0);
    // Whatever the speed of the machine, little time passes between the stages.
    const total = times.reduce((sum, time) => sum + time);
    expect(rate).toBeGreaterThan(0.5 * Math.min(30, 1000 / total));
  });

  it("pauses, steps and goes on", async () => {
    await page.click("#live-pause");
    expect(await page.textContent("#live-pause")).toBe("Continue");
    const picture = () => page.evaluate(() => window.copyOfLive().canvas.toDataURL());
    await waitForStatus(page, "Paused");
    const before = await picture();
    await page.waitForTimeout(300);
    expect(await picture()).toBe(before);
    await page.click("#live-step");
    await page.waitForFunction(
      (old) => window.copyOfLive().canvas.toDataURL() !== old,
      before,
    );
    await page.click("#live-pause");
    await waitForMatches(60);
  });

  it("goes on when another model of the user replaces the one in use", async () => {
    const graphs = (folder: string) =>
      ["extract", "match"].map((name) => join(WEB, "build/models", folder, `${name}.onnx`));
    for (const folder of ["fast-256", "fast-512"]) {
      await page.click("#tab-compare");
      await page.setInputFiles("#own-model", graphs(folder));
      await waitForStatus(page, "Loaded fast (yours)");
      await page.click("#tab-live");
      // The second model has the same name: the choice stays.
      if (folder === "fast-256") await page.selectOption("#live-model", "fast (yours)");
      await page.evaluate(() => (document.getElementById("live-summary")!.textContent = ""));
      await page.click("#live-pause");
      await waitForMatches(30);
      expect(await page.isVisible("#error")).toBe(false);
    }
    await page.selectOption("#live-model", "fast");
  });

  it("stops", async () => {
    await page.click("#live-stop");
    expect(await page.isDisabled("#live-pause")).toBe(true);
    await page.waitForFunction(() =>
      document.getElementById("live-summary")!.textContent!.startsWith("Nothing is playing"),
    );
  });
});

describe("live with a video file", () => {
  it("names a file that is no video", async () => {
    const file = { name: "broken.mp4", mimeType: "video/mp4", buffer: Buffer.from("no video") };
    await page.setInputFiles("#video-file", file);
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error-text")).toContain("broken.mp4: not a video");
    await page.click("#error-close");
  });

  it("lays a picture onto a planar reference", async () => {
    await page.setInputFiles("#video-file", join(WEB, "build/plane.webm"));
    await waitForMatches(60);
    await page.click("#live-take");
    await waitForStatus(page, "Reference: frame, 640×480");
    await page.click("#live-mode button[value=augmented]");
    await page.waitForFunction(() => {
      // Green pixels of the outline, which the photograph does not have.
      const copy = window.copyOfLive();
      const { data } = copy.getImageData(0, 0, copy.canvas.width, copy.canvas.height);
      let outline = 0;
      for (let i = 0; i < data.length; i += 4) {
        if (data[i] < 40 && data[i + 1] > 200 && data[i + 2] > 160) outline++;
      }
      return outline > 400;
    });
    const [matches, inliers] = await counts();
    expect(inliers).toBeGreaterThan(0.4 * matches);
  });

  it("draws the reference beside the frame", async () => {
    await page.click("#live-mode button[value=reference]");
    await page.waitForFunction(
      () => (document.getElementById("live-canvas") as HTMLCanvasElement).width === 1280,
    );
  });

  it("records what it shows", async () => {
    await page.click("#live-record");
    await page.waitForTimeout(3000);
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#live-record")]);
    expect(download.suggestedFilename()).toBe("featherglue.webm");
    const path = await download.path();
    expect(statSync(path).size).toBeGreaterThan(1000);
    expect([...readFileSync(path).subarray(0, 4)]).toEqual([0x1a, 0x45, 0xdf, 0xa3]); // Matroska
    await page.click("#live-stop");
  });

  it("has no errors in its scripts", () => {
    expect(errors).toEqual([]);
  });
});
