// Build the page and serve it with a bundle: `npm run dev -- ../my.bundle`, by default bundles/pebble.
import { existsSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { serve } from "./server.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const bundle = resolve(process.argv[2] ?? join(root, "bundles/pebble"));
if (!existsSync(join(bundle, "skipstone.json"))) {
  console.error(`${bundle} is no bundle; make one with: skipstone export pebble -o ${bundle}`);
  process.exit(2);
}
await import("./build.mjs");
const name = encodeURIComponent(basename(bundle));
const { url } = await serve({ "/": join(root, "dist"), [`/bundles/${basename(bundle)}/`]: bundle }, 8080);
console.log(`${url}?bundle=bundles/${name}`);
