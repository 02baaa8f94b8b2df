// Screenshots of all pages at three widths, light and dark: node scripts/screenshots.mjs FOLDER
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { fakeCamera, startBrowser } from "./browser.mjs";
import { serve } from "./serve.mjs";

const folder = process.argv[2] ?? "build/screenshots";
mkdirSync(folder, { recursive: true });
const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const server = await serve(path("dist"));
const { context, close } = await startBrowser(fakeCamera(path("build/camera.y4m")));
const page = await context.newPage();
const started = (text) =>
  page.waitForFunction((t) => document.getElementById("status").textContent.startsWith(t), text);
await page.goto(`http://localhost:${server.address().port}/?threads=2`);
await page.waitForSelector("html[data-ready]");
const widths = [
  ["phone", 390, 844, "dark"],
  ["tablet", 820, 1100, "light"],
  ["desktop", 1280, 900, "light"],
];
const shoot = async (name) => {
  for (const [device, width, height, colorScheme] of widths) {
    await page.setViewportSize({ width, height });
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(400);
    await page.screenshot({ path: join(folder, `${name}-${device}.png`), fullPage: true });
  }
};
await shoot("empty");
await page.click("button.sample[value=coffee]");
await started("Done");
await shoot("photos");
await page.click("#view button[value=swipe]");
await shoot("swipe");
await page.click("#tab-live");
await page.setInputFiles("#video-file", path("build/plane.webm"));
await page.waitForFunction(() => /\d\d+ matches/.test(document.getElementById("live-summary").textContent));
await page.click("#live-take");
await started("Reference");
await page.click("#live-mode button[value=reference]");
await page.waitForTimeout(1500);
await page.click("#live-pause");
await page.waitForTimeout(500);
await shoot("live-reference");
await page.click("#live-pause");
await page.click("#live-mode button[value=augmented]");
await page.waitForTimeout(1500);
await page.click("#live-pause");
await page.waitForTimeout(500);
await shoot("live-overlay");
await page.click("#tab-compare");
await page.click("#compare-run");
await started("Compared");
await shoot("compare");
await close();
server.close();
server.closeAllConnections();
