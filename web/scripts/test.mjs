// The unit tests, on Node: `SKIPSTONE_TRACES=FOLDER npm test`. Without a folder that traces.py wrote, those on real
// bundles are skipped.
import { spawnSync } from "node:child_process";
import { rmSync } from "node:fs";
import { build } from "esbuild";

const outdir = "build/tests";
rmSync(outdir, { recursive: true, force: true });
await build({
  entryPoints: ["tests/*.test.ts"],
  outdir,
  bundle: true,
  format: "esm",
  platform: "node",
  packages: "external",
  outExtension: { ".js": ".mjs" },
});
const { status } = spawnSync(process.execPath, ["--test", "--test-reporter=spec", outdir], { stdio: "inherit" });
process.exit(status ?? 1);
