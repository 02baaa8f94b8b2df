import { readFileSync } from "node:fs";
import { join } from "node:path";
import { deflateSync } from "node:zlib";
import type { Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { crc32 } from "../../src/files/npz";
import { openPage, serveSite, startBrowser, waitForStatus, WEB, type Browser, type Site } from "./harness";

const MODELS = join(WEB, "build/models");
const graph = (folder: string, name: string) => join(MODELS, folder, `${name}.onnx`);
/** A gray PNG file of one level. */
function blankPng(width: number, height: number): Buffer {
  const chunk = (kind: string, content: Buffer) => {
    const body = Buffer.concat([Buffer.from(kind), content]);
    const bytes = Buffer.alloc(body.length + 8);
    bytes.writeUInt32BE(content.length, 0);
    body.copy(bytes, 4);
    bytes.writeUInt32BE(crc32(body), body.length + 4);
    return bytes;
  };
  const header = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0]);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  const rows = deflateSync(Buffer.alloc((width + 1) * height));
  const signature = Buffer.from([137, 80, 78, 71, 13, 10, 26, 10]);
  return Buffer.concat([
    signature,
    chunk("IHDR", header),
    chunk("IDAT", rows),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

const errors: string[] = [];
let sites: Site[];
let browser: Browser;
let page: Page;

beforeAll(async () => {
  sites = [await serveSite(), await serveSite(false)];
  // Without a fake permission, headless Chromium denies the camera.
  browser = await startBrowser(["--use-fake-device-for-media-stream"], { width: 390, height: 844 });
  page = await openPage(browser, `${sites[0].url}?threads=1`, errors);
});

afterAll(async () => {
  await browser?.close();
  sites?.forEach((site) => site.close());
});

async function message(): Promise<string> {
  await page.waitForSelector("#error:not([hidden])");
  const text = (await page.textContent("#error-text")) ?? "";
  await page.click("#error-close");
  return text;
}

describe("a narrow screen", () => {
  it("shows every page within its width", async () => {
    await page.click("button.sample[value=coffee]");
    await waitForStatus(page, "Done");
    for (const tab of ["photos", "live", "compare"]) {
      await page.click(`#tab-${tab}`);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      expect(width, tab).toBeLessThanOrEqual(390);
    }
  });

  it("has targets that a finger hits", async () => {
    for (const tab of ["photos", "live", "compare"]) {
      await page.click(`#tab-${tab}`);
      const small = await page.evaluate(() =>
        [...document.querySelectorAll<HTMLElement>("button, select, .file-button, [type=range]")]
          .filter((element) => element.offsetParent !== null && element.offsetHeight < 32)
          .map((element) => element.id || element.textContent),
      );
      expect(small).toEqual([]);
    }
  });
});

describe("the keyboard and screen readers", () => {
  it("moves between tabs with arrow keys", async () => {
    await page.focus("#tab-compare");
    await page.keyboard.press("ArrowRight");
    expect(await page.getAttribute("#tab-photos", "aria-selected")).toBe("true");
    expect(await page.evaluate(() => document.activeElement?.id)).toBe("tab-photos");
    expect(await page.isVisible("#panel-photos")).toBe(true);
    expect(await page.isVisible("#panel-compare")).toBe(false);
  });

  it("names every control and picture", async () => {
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll<HTMLElement>("button, input, select, canvas[role=img]")]
        .filter((element) => {
          const labels = (element as HTMLInputElement).labels;
          const label = element.getAttribute("aria-label") ?? labels?.[0]?.textContent;
          return !(label || element.textContent)?.trim() && element.offsetParent !== null;
        })
        .map((element) => element.id),
    );
    expect(nameless).toEqual([]);
  });
});

describe("bad input", () => {
  it("names a denied camera", async () => {
    await page.click("#tab-live");
    await page.click("#use-camera");
    expect(await message()).toMatch(/camera is not allowed.*video file/i);
  });

  it.each([
    ["one file", [graph("fast-256", "extract")], /two files together/],
    ["two of a kind", [graph("fast-256", "match"), graph("fast-512", "match")], /Both files are match/],
    ["different exports", [graph("fast-256", "extract"), graph("fast-512", "match")], /different exports/],
  ])("names %s", async (_, files, expected) => {
    await page.click("#tab-compare");
    await page.setInputFiles("#own-model", files);
    expect(await message()).toMatch(expected);
  });

  it("names a corrupt graph, even one with sound metadata", async () => {
    const named = (name: string, buffer: Buffer) => ({ name, mimeType: "application/octet-stream", buffer });
    const match = named("match.onnx", readFileSync(graph("fast-256", "match")));
    const bytes = readFileSync(graph("fast-256", "extract"));
    await page.setInputFiles("#own-model", [named("extract.onnx", bytes.subarray(0, 90_000)), match]);
    expect(await message()).toMatch(/extract\.onnx: not an ONNX file, or damaged/);
    const damaged = Buffer.from(bytes).fill(0xff, 1000, 3000);
    await page.setInputFiles("#own-model", [named("extract.onnx", damaged), match]);
    expect(await message()).toMatch(/extract\.onnx: .*damaged/);
  });

  it("names a graph of another version", async () => {
    const bytes = readFileSync(graph("fast-256", "extract"));
    const at = bytes.indexOf("interface") + "interface".length + 2;
    expect(String.fromCharCode(bytes[at])).toBe("1");
    bytes[at] = "7".charCodeAt(0);
    const file = { name: "new.onnx", mimeType: "application/octet-stream", buffer: bytes };
    const match = { ...file, name: "match.onnx", buffer: readFileSync(graph("fast-256", "match")) };
    await page.setInputFiles("#own-model", [file, match]);
    expect(await message()).toMatch(/new\.onnx: .*version 7.*reads version 1/);
  });
});

describe("unusual photos", () => {
  it("scales a huge image down and says so; a blank one has no matches", async () => {
    await page.click("#tab-photos");
    const huge = { name: "huge.png", mimeType: "image/png", buffer: blankPng(9000, 6000) };
    await page.setInputFiles("#slot1 input", huge);
    await page.waitForFunction(() =>
      document.getElementById("summary")!.textContent!.includes("9000×6000 to 640×427 px"),
    );
    expect(await page.textContent("#summary")).toMatch(/^0 matches .* no homography/);
  });

  it("names an image too small to match and an empty file", async () => {
    const tiny = { name: "tiny.png", mimeType: "image/png", buffer: blankPng(4, 400) };
    await page.setInputFiles("#slot1 input", tiny);
    expect(await message()).toContain("tiny.png: 4×400 px is too small");
    const empty = { name: "empty.jpg", mimeType: "image/jpeg", buffer: Buffer.alloc(0) };
    await page.setInputFiles("#slot1 input", empty);
    expect(await message()).toContain("empty.jpg: the file is empty");
  });

  it.each(["paste", "drop"])("takes photos by %s", async (kind) => {
    await page.reload();
    await page.waitForSelector("html[data-ready]");
    await page.evaluate(async (type) => {
      const names = ["rocket0.jpg", "rocket1.jpg"];
      const transfer = new DataTransfer();
      for (const name of names) {
        const blob = await (await fetch(`samples/${name}`)).blob();
        transfer.items.add(new File([blob], name, { type: "image/jpeg" }));
      }
      const options = { bubbles: true, cancelable: true };
      document.dispatchEvent(
        type === "paste"
          ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
          : new DragEvent("drop", { ...options, dataTransfer: transfer }),
      );
    }, kind);
    await waitForStatus(page, "Done");
    expect(await page.textContent("#slot1 .caption")).toContain("rocket1.jpg, 640×480");
  });
});

describe("compare", () => {
  it("compares two models on the same photos", async () => {
    await page.click("#tab-compare");
    await page.setInputFiles("#own-model", [graph("fast-256", "match"), graph("fast-256", "extract")]);
    await waitForStatus(page, "Loaded fast (yours)");
    await page.selectOption("#compare-model0", "balanced");
    await page.fill("#compare-size", "320");
    await page.click("#compare-run");
    await waitForStatus(page, "Compared");
    expect(await page.textContent("#compare-name0")).toBe("balanced");
    expect(await page.textContent("#compare-name1")).toBe("fast (yours)");
    expect(await page.textContent("#compare-summary1")).toMatch(/^\d\d+ matches of \d+ and \d+ keypoints/);
    const totals = await page.locator("[id^=compare-times] td:last-child").allTextContents();
    expect(totals.map(Number).every((time) => time > 0)).toBe(true);
  });

  it("has no errors in its scripts", () => {
    expect(errors).toEqual([]);
  });
});

describe("a host without the cross-origin headers", () => {
  it("gets threads from the service worker", async () => {
    const other = await browser.context.newPage();
    await other.goto(`${sites[1].url}?threads=2`);
    await other.waitForFunction(() => self.crossOriginIsolated && document.documentElement.dataset.ready);
    expect(await other.textContent("#machine")).toContain("2 threads");
    await other.click("button.sample[value=coffee]");
    await waitForStatus(other, "Done");
    expect(await other.textContent("#summary")).toMatch(/^\d{3} matches/);
    await other.close();
  });
});
