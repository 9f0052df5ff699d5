// The page in a real browser: `SKIPSTONE_TRACES=FOLDER npm run browser [-- SCREENSHOT.png]` types a prompt, reads the
// tokens, stops a text, asks for suggestions, and does it again with the server gone. `-- --webgpu` writes one text on
// WebGPU instead, a software adapter where there is no graphics processor: minutes.
import assert from "node:assert/strict";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { launch } from "./chromium.mjs";
import { serve } from "./server.mjs";

const folder = process.env.SKIPSTONE_TRACES;
if (!folder) {
  console.error("no traces: run `python web/traces.py FOLDER`, then SKIPSTONE_TRACES=FOLDER npm run browser");
  process.exit(2);
}
const isGpu = process.argv[2] === "--webgpu";
const screenshot = isGpu ? undefined : process.argv[2];
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const bundle = join(folder, isGpu ? "pebble-mini-fp32" : "pebble");
const { texts } = JSON.parse(readFileSync(join(bundle, "traces.json"), "utf-8"));
const PATIENCE = { timeout: isGpu ? 300_000 : 90_000 };
const GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"];

await import("./build.mjs");
const damaged = damagedCopy(bundle);
const folders = { "/": join(root, "dist"), "/bundles/pebble/": bundle, "/bundles/damaged/": damaged };
const server = await serve(folders);
const browser = await launch(isGpu ? [...GPU, "--use-vulkan=swiftshader"] : []);
try {
  const page = await browser.newPage({ viewport: { width: 800, height: 720 }, deviceScaleFactor: 1 });
  page.on("console", (message) => message.type() === "error" && console.log("page:", message.text()));
  await page.goto(`${server.url}?threads=1&device=${isGpu ? "webgpu" : "wasm"}`);
  await ready(page);
  assert.ok(await page.evaluate(() => crossOriginIsolated), "threads cannot share memory");

  const [trace] = texts;
  for (const method of ["plain", "ngram"]) {
    assert.equal(await written(page, trace, method), trace.prompt + trace.text, `method ${method}`);
  }
  console.log("the page writes Python's text, with drafts and without");
  if (isGpu) process.exit(0);
  if (screenshot) await takeScreenshot(page, texts[1]);
  await stops(page);
  await suggests(page, trace);
  await draws(page, trace);
  await mends(page);

  await server.stop();
  await page.reload();
  await ready(page);
  assert.equal(await written(page, trace, "ngram"), trace.prompt + trace.text, "offline");
  console.log("it does so with the server gone");
} finally {
  await browser.close();
}
process.exit(0);

async function ready(page) {
  await page.waitForFunction(
    () => document.body.dataset.ready || document.querySelector("#loading.failed"),
    undefined,
    PATIENCE,
  );
  const failure = await page.evaluate(() => document.querySelector("#loading.failed #status")?.textContent);
  assert.equal(failure, undefined);
}

async function begin(page, prompt, method, numTokens) {
  await page.fill("#prompt", prompt);
  await page.check(`input[value=${method}]`, { force: true });
  await page.fill("#tokens", `${numTokens}`);
  await page.click("#write");
}

async function written(page, { prompt, token_ids }, method) {
  await begin(page, prompt, method, token_ids.length);
  await page.waitForSelector("#write:not([disabled])", PATIENCE);
  return page.textContent("#output");
}

/** A text ends after the call that is running, and the page never waits for the model. */
async function stops(page) {
  await begin(page, "import os\n", "plain", 900);
  await page.waitForFunction(() => document.querySelectorAll("#output span").length > 3, undefined, PATIENCE);
  const ms = await page.evaluate(async () => {
    const start = performance.now();
    document.querySelector("#stop").click();
    while (document.querySelector("#write").disabled) await new Promise(requestAnimationFrame);
    return performance.now() - start;
  });
  const num = await page.locator("#output span").count();
  assert.ok(num < 800, `${num} pieces were written`);
  console.log(`a text stops after ${ms.toFixed(0)} ms`);
}

async function suggests(page, trace) {
  await begin(page, trace.prompt, "suggest", 10);
  await page.waitForSelector("#suggestions button", PATIENCE);
  const shown = await page.locator("#suggestions button").allTextContents();
  assert.equal(shown.length, 3); // which ones is for same_tokens.test.ts: weights of 8 bits round otherwise here
  assert.equal(shown[0].split("\n")[0], trace.suggestions[0].text.split("\n")[0]);
  await page.evaluate(() => {
    for (const button of document.querySelectorAll("#suggestions button")) button.click();
  });
  await page.waitForSelector("#write:not([disabled])", PATIENCE);
  assert.equal(await page.inputValue("#prompt"), trace.prompt + shown[0], "two suggestions were taken at once");
  console.log(`it suggests ${JSON.stringify(shown)}`);
}

/** At a temperature the same seed draws the same text, with drafts and without; what cannot be is told. */
async function draws(page, trace) {
  await page.click("summary:has-text('Sampling')");
  await page.fill("#temperature", "1.3");
  const plain = await written(page, trace, "plain");
  assert.equal(await written(page, trace, "ngram"), plain, "drafts changed a drawn text");
  assert.notEqual(plain, trace.prompt + trace.text);
  await page.fill("#top-p", "7");
  await written(page, trace, "plain");
  assert.match(await page.textContent("#status"), /top-p is 7/);
  await page.fill("#top-p", "1");
  await page.fill("#temperature", "0");
  console.log("it draws the same text from a seed, whatever the method");
}

function damagedCopy(folder) {
  const copy = mkdtempSync(join(tmpdir(), "damaged-"));
  for (const file of readdirSync(folder)) copyFileSync(join(folder, file), join(copy, file));
  const weights = readFileSync(join(copy, "weights.bin"));
  weights[1000] ^= 255;
  writeFileSync(join(copy, "weights.bin"), weights);
  return copy;
}

/** A damaged file is told, nothing can be written then, and it is not kept: once the server has it whole, all runs. */
async function mends(page) {
  const { url } = server;
  await page.goto(`${url}?threads=1&bundle=bundles/damaged`);
  await page.waitForSelector("#loading.failed", PATIENCE);
  assert.match(await page.textContent("#status"), /weights.bin is damaged/);
  assert.ok(await page.isDisabled("#write"));
  copyFileSync(join(bundle, "weights.bin"), join(damaged, "weights.bin"));
  await page.reload();
  await ready(page);
  await page.goto(`${url}?threads=1`);
  await ready(page);
  assert.equal((await fetch(`${url}%`)).status, 404);
  console.log("it runs a bundle that was damaged and is whole again");
}

async function takeScreenshot(page, trace) {
  await written(page, trace, "ngram");
  await page.locator("body").click({ position: { x: 2, y: 2 } });
  const box = await page.locator("main").boundingBox();
  await page.setViewportSize({ width: 800, height: Math.ceil(box.y + box.height + 24) });
  await page.screenshot({ path: screenshot });
}
