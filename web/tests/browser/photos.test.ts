import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openPage, serveSite, startBrowser, waitForStatus, WEB, type Browser, type Site } from "./harness";

type Row = [number, number, number, number, number];
interface Saved {
  H_0to1: number[][] | null;
  matches: { point0: number[]; point1: number[]; confidence: number; inlier: boolean | null }[];
}

const reference: Record<string, Record<string, Row[]>> = JSON.parse(
  readFileSync(join(WEB, "build/reference.json"), "utf8"),
);
const errors: string[] = [];
let site: Site;
let browser: Browser;
let page: Page;

beforeAll(async () => {
  site = await serveSite();
  browser = await startBrowser();
  page = await openPage(browser, `${site.url}?threads=2`, errors);
});

afterAll(async () => {
  await browser?.close();
  site?.close();
});

async function matchSample(name: string): Promise<void> {
  await page.evaluate(() => (document.getElementById("status")!.textContent = ""));
  await page.click(`button.sample[value=${name}]`);
  await waitForStatus(page, "Done");
}

async function saved(id: string): Promise<Buffer> {
  const [download] = await Promise.all([page.waitForEvent("download"), page.click(`#${id}`)]);
  return readFileSync(await download.path());
}

const savedJson = async (): Promise<Saved> => JSON.parse((await saved("save-json")).toString());

/** Number of reference matches that the page has too, both ends within a distance. */
function agreement(rows: Row[], { matches }: Saved, distance: number): number {
  return rows.filter(([x0, y0, x1, y1]) =>
    matches.some(
      ({ point0, point1 }) =>
        Math.hypot(point0[0] - x0, point0[1] - y0) < distance &&
        Math.hypot(point1[0] - x1, point1[1] - y1) < distance,
    ),
  ).length;
}

describe("two photos", () => {
  it("runs with threads", async () => {
    expect(await page.evaluate(() => self.crossOriginIsolated)).toBe(true);
    expect(await page.textContent("#machine")).toContain("2 threads");
  });

  it.each(["coffee", "rocket"])("finds the matches of the Python session: %s", async (name) => {
    await matchSample(name);
    const rows = reference.fast[name];
    const result = await savedJson();
    expect(Math.abs(result.matches.length - rows.length)).toBeLessThanOrEqual(0.01 * rows.length);
    expect(agreement(rows, result, 0.1)).toBeGreaterThanOrEqual(0.99 * rows.length);
    expect(await page.textContent("#summary")).toContain(`${result.matches.length} matches`);
  });

  it("estimates the homography of the sample", async () => {
    await matchSample("rocket");
    const { H_0to1, matches } = await savedJson();
    // The corners of the second view in the first, as scripts/make_samples.py has them.
    const corners = [[0.02, 0.14], [0.9, 0.02], [0.98, 0.9], [0.12, 0.98]];
    const targets = [[0, 0], [640, 0], [640, 480], [0, 480]];
    corners.forEach(([fx, fy], i) => {
      const [x, y] = [fx * 640, fy * 427];
      const [a, b, w] = H_0to1!.map((row) => row[0] * x + row[1] * y + row[2]);
      expect(Math.hypot(a / w - targets[i][0], b / w - targets[i][1])).toBeLessThan(3);
    });
    expect(matches.filter((match) => match.inlier).length).toBeGreaterThan(0.6 * matches.length);
  });

  it("keeps only confident matches", async () => {
    const before = (await savedJson()).matches;
    await page.fill("#confidence", "0.8");
    const after = (await savedJson()).matches;
    expect(after.length).toBe(before.filter((m) => m.confidence >= 0.8).length);
    expect(after.length).toBeGreaterThan(10);
    await page.fill("#confidence", "0.2");
  });

  it("reduces the number of keypoints", async () => {
    await page.fill("#keypoints", "128");
    await page.waitForFunction(() =>
      document.getElementById("summary")!.textContent!.includes("of 128 and 128 keypoints"),
    );
    await page.fill("#keypoints", "512");
    await waitForStatus(page, "Done");
  });

  it("shows one match by key and pointer", async () => {
    await matchSample("coffee");
    await page.focus("#pair");
    await page.keyboard.press("ArrowRight");
    expect(await page.textContent("#match-detail")).toMatch(/^Match 1 of \d+/);
    await page.keyboard.press("Escape");
    expect(await page.textContent("#match-detail")).toBe("");
    const { point0 } = (await savedJson()).matches[3];
    const box = (await page.locator("#pair").boundingBox())!;
    const height = box.height / 400; // photo 0 has 600×400 px and fills the height
    await page.mouse.move(box.x + point0[0] * height, box.y + point0[1] * height);
    expect(await page.textContent("#match-detail")).toMatch(/^Match \d+ of/);
  });

  it("lays the warped photo over the other", async () => {
    await page.click("#view button[value=swipe]");
    await page.fill("#split", "1");
    const difference = await page.evaluate(() => {
      // Correlation of the overlay with the second photo, where both have pixels.
      const overlay = document.getElementById("overlay") as HTMLCanvasElement;
      const photo = document.querySelector("#slot1 canvas") as HTMLCanvasElement;
      const [a, b] = [overlay, photo].map(
        (c) => c.getContext("2d")!.getImageData(100, 100, 400, 250).data,
      );
      let [sa, sb, saa, sbb, sab] = [0, 0, 0, 0, 0];
      for (let i = 1; i < a.length; i += 4) {
        sa += a[i]; sb += b[i]; saa += a[i] ** 2; sbb += b[i] ** 2; sab += a[i] * b[i];
      }
      const n = a.length / 4;
      return (n * sab - sa * sb) / Math.sqrt((n * saa - sa ** 2) * (n * sbb - sb ** 2));
    });
    expect(difference).toBeGreaterThan(0.9);
    await page.click("#view button[value=matches]");
  });

  it("saves arrays and a picture", async () => {
    expect((await saved("save-npz")).subarray(0, 4).toString("latin1")).toBe("PK\x03\x04");
    expect((await saved("save-picture")).subarray(1, 4).toString()).toBe("PNG");
  });

  it("names a file that is no image, and goes on", async () => {
    const file = { name: "broken.jpg", mimeType: "image/jpeg", buffer: Buffer.from("not a photo") };
    await page.setInputFiles("#slot0 input", file);
    await page.waitForSelector("#error:not([hidden])");
    expect(await page.textContent("#error-text")).toContain("broken.jpg: not an image");
    await matchSample("coffee");
    expect(await page.isHidden("#error")).toBe(true);
  });

  it("has no errors in its scripts", () => {
    expect(errors).toEqual([]);
  });
});
