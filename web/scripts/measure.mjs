// Measures the built page in Chromium: size and time of the first visit, time of a pair, and frames
// per second of the live page.
//
//     python scripts/make_clips.py build/fast-camera IMAGES --rate 60
//     node scripts/measure.mjs [--threads 2] [--repetitions 5] [--camera build/fast-camera/camera.y4m]
//
// Prints minima and medians: on a busy machine only minima tell something about the page.
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { fakeCamera, startBrowser } from "./browser.mjs";
import { serve } from "./serve.mjs";

const { values } = parseArgs({
  options: {
    threads: { type: "string", default: "2" },
    repetitions: { type: "string", default: "5" },
    camera: { type: "string", default: "build/fast-camera/camera.y4m" },
  },
});
const path = (name) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const camera = resolve(values.camera);
if (!existsSync(camera)) throw new Error(`${camera} is missing: run scripts/make_clips.py`);
const repetitions = Number(values.repetitions);
const server = await serve(path("dist"));
const url = `http://localhost:${server.address().port}/?threads=${values.threads}`;

const summary = (numbers) => {
  const sorted = [...numbers].sort((a, b) => a - b);
  const shown = [sorted[0], sorted[sorted.length >> 1], sorted[sorted.length - 1]];
  return shown.map((value) => value.toFixed(1)).join(" / ");
};
const isDone = () => document.getElementById("status").textContent.startsWith("Done");
const cells = (page, table) =>
  page.locator(`#${table} td`).allTextContents().then((texts) => texts.map(Number));

async function firstVisit() {
  const { context, close } = await startBrowser();
  const page = await context.newPage();
  const before = server.sent;
  await page.goto(url);
  await page.waitForSelector("html[data-ready]");
  await page.click("button.sample[value=coffee]");
  await page.waitForFunction(isDone);
  const time = await page.evaluate(
    () => performance.getEntriesByName("featherglue-matched")[0].startTime,
  );
  const bytes = server.sent - before; // compressed, with headers
  await close();
  return { bytes, time };
}

async function pairs() {
  const { context, close } = await startBrowser();
  const page = await context.newPage();
  await page.goto(url);
  await page.waitForSelector("html[data-ready]");
  const totals = [];
  for (let i = 0; i <= 4 * repetitions; i++) {
    await page.evaluate(() => (document.getElementById("status").textContent = ""));
    await page.click("button.sample[value=coffee]");
    await page.waitForFunction(isDone);
    if (i > 0) totals.push(await cells(page, "times"));
  }
  await close();
  return totals;
}

async function live(size, keypoints) {
  const { context, close } = await startBrowser(fakeCamera(camera));
  const page = await context.newPage();
  await page.goto(`${url}#live`);
  await page.waitForSelector("html[data-ready]");
  await page.fill("#live-size", String(size));
  await page.fill("#live-keypoints", String(keypoints));
  await page.click("#use-camera");
  const rows = [];
  let last = "";
  while (rows.length < 2 * repetitions) {
    await page.waitForFunction(
      (old) => document.querySelector("#live-times tbody").textContent !== old,
      last,
      { polling: 100 },
    );
    last = await page.textContent("#live-times tbody");
    rows.push(await cells(page, "live-times"));
  }
  await close();
  return rows.slice(1);
}

const visits = [];
for (let i = 0; i < Math.min(repetitions, 5); i++) visits.push(await firstVisit());
console.log(`threads: ${values.threads}; minimum / median / maximum`);
console.log(`first visit, MB, compressed: ${summary(visits.map((v) => v.bytes / 1e6))}`);
console.log(`first visit, ms to the first matches: ${summary(visits.map((v) => v.time))}`);
const totals = await pairs();
const twoImages = totals.map((row) => row[4]);
console.log(`two photos (600×400, 640×480), 512 keypoints, ms: ${summary(twoImages)}`);
console.log(`  extraction of both: ${summary(totals.map((r) => r[1]))}, matching ${summary(totals.map((r) => r[2]))}`);
for (const [size, keypoints] of [[320, 256], [640, 512]]) {
  const rows = await live(size, keypoints);
  const rates = rows.map((row) => row[6]);
  console.log(`live, ${size} px, ${keypoints} keypoints: frames/s ${summary(rates)}`);
  const names = ["copy", "gray", "extraction", "matching", "homography", "drawing"];
  names.forEach((name, i) => console.log(`  ${name}, ms: ${summary(rows.map((row) => row[i]))}`));
}
server.close();
server.closeAllConnections();
