// The browser that tests and benchmarks drive: $SKIPSTONE_CHROMIUM, or what is called chromium or google-chrome here.
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome"];

export function findChromium() {
  if (process.env.SKIPSTONE_CHROMIUM) return process.env.SKIPSTONE_CHROMIUM;
  const folders = (process.env.PATH ?? "").split(delimiter);
  return folders.flatMap((folder) => NAMES.map((name) => join(folder, name))).find(existsSync);
}

export async function launch(args = []) {
  const executablePath = findChromium();
  if (!executablePath) {
    console.log("no browser: install chromium, or name one in SKIPSTONE_CHROMIUM");
    process.exit(77);
  }
  return chromium.launch({ executablePath, args: ["--no-sandbox", ...args] });
}
