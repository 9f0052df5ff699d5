// The page as files for any static server: `npm run build` writes dist/.
import { copyFileSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const require = createRequire(import.meta.url);
const PAGE_FILES = ["./", "main.js", "worker.js", "style.css"];
const ORT_FILES = [
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
  "ort.webgpu.min.mjs",
  "ort-wasm-simd-threaded.asyncify.mjs",
  "ort-wasm-simd-threaded.asyncify.wasm",
];

const ort = dirname(require.resolve("onnxruntime-web/ort-wasm-simd-threaded.wasm"));
const { version } = JSON.parse(readFileSync(`${ort}/../package.json`, "utf-8"));
const out = `${root}/dist`;

rmSync(out, { recursive: true, force: true });
mkdirSync(`${out}/ort`, { recursive: true });
await build({
  entryPoints: ["main", "worker", "service_worker"].map((name) => `${root}/page/${name}.ts`),
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2023",
  define: { ORT_VERSION: JSON.stringify(version), PAGE_FILES: JSON.stringify(PAGE_FILES) },
});
for (const file of ["index.html", "style.css"]) copyFileSync(`${root}/page/${file}`, `${out}/${file}`);
for (const file of ORT_FILES) copyFileSync(`${ort}/${file}`, `${out}/ort/${file}`);
