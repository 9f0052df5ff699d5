// Tokens a second in the browser, beside wllama's (llama.cpp) and Python's, on the same weights; runs take turns.
//
//     npm install --no-save @wllama/wllama@3.13.0
//     PYTHON=python npm run bench -- --threads 2 pebble=BUNDLE,pebble-q8_0.gguf smollm2=BUNDLE,smollm2.gguf
//
// `--packed` adds a run in which integers are not unpacked. Without a GGUF file, without the package, or without PYTHON, those columns are left out.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { launch } from "./chromium.mjs";
import { serve } from "./server.mjs";

const PROMPT = "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n";
const PATIENCE = { timeout: 300_000 };
const root = dirname(dirname(fileURLToPath(import.meta.url)));
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "5" },
    tokens: { type: "string", default: "64" },
    packed: { type: "boolean", default: false },
  },
});
const [threads, rounds, tokens] = [values.threads, values.rounds, values.tokens].map(Number);
const wllama = join(root, "node_modules/@wllama/wllama/esm");

await import("./build.mjs");
console.log(`| model | way | tokens/s, median of ${rounds} | least, most |\n|---|---|---|---|`);
for (const argument of positionals) {
  const [name, files] = argument.split("=");
  const [bundle, gguf] = files.split(",");
  await measure(name, resolve(bundle), gguf && resolve(gguf));
}
process.exit(0);

async function measure(name, bundle, gguf) {
  const folders = { "/": join(root, "dist"), "/bundles/pebble/": bundle };
  if (gguf && existsSync(wllama)) {
    Object.assign(folders, {
      "/wllama/": wllama,
      "/model.gguf": gguf,
      "/wllama.html": join(root, "scripts/wllama.html"),
    });
  }
  const server = await serve(folders);
  const browser = await launch();
  const ways = new Map();
  const page = await open(browser, `${server.url}?threads=${threads}`);
  for (const method of ["plain", "ngram"]) ways.set(`skipstone, ${method}`, () => written(page, method));
  if (values.packed) {
    const packed = await open(browser, `${server.url}?threads=${threads}&packed=yes`);
    ways.set("skipstone, plain, integers kept packed", () => written(packed, "plain"));
  }
  if ("/wllama/" in folders) {
    const other = await open(browser, `${server.url}wllama.html?threads=${threads}`);
    ways.set("wllama", () => other.evaluate(([prompt, num]) => tokensPerSecond(prompt, num), [PROMPT, tokens]));
  }
  if (process.env.PYTHON) ways.set("Python, plain", startPython(bundle));
  const rates = new Map([...ways.keys()].map((way) => [way, []]));
  for (let round = -1; round < rounds; round++) {
    for (const [way, run] of ways) {
      const rate = await run();
      if (round >= 0) rates.get(way).push(rate); // the first round warms up
    }
  }
  for (const [way, all] of rates) {
    const sorted = all.toSorted((one, other) => one - other);
    const [least, median, most] = [sorted[0], sorted[rounds >> 1], sorted.at(-1)].map((rate) => rate.toFixed(1));
    console.log(`| ${name} | ${way} | ${median} | ${least}, ${most} |`);
  }
  await browser.close();
  await server.stop();
}

async function open(browser, url) {
  const page = await browser.newPage();
  await page.goto(url);
  await page.waitForFunction(() => document.body?.dataset.ready, undefined, PATIENCE);
  return page;
}

async function written(page, method) {
  await page.fill("#prompt", PROMPT);
  await page.check(`input[value=${method}]`, { force: true });
  await page.fill("#tokens", `${tokens}`);
  await page.click("#write");
  await page.waitForSelector("#write:not([disabled])", PATIENCE);
  return Number(await page.evaluate(() => document.body.dataset.tokensPerSecond));
}

function startPython(bundle) {
  const child = spawn(process.env.PYTHON, [join(root, "bench.py"), bundle, `${threads}`, `${tokens}`], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return async () => {
    child.stdin.write(`${JSON.stringify(PROMPT)}\n`);
    return Number((await lines.next()).value);
  };
}
