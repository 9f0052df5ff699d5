import { BundleError, messageOf } from "../errors.ts";

export const MANIFEST_NAME = "skipstone.json";
/** The newest format of bundles that is read here; docs/bundle.md describes it. */
export const FORMAT_VERSION = 10;
/** Targets of an export whose graphs are those of onnxruntime's own operators. */
const TARGETS = ["ort", "android-cpu"];
/** The first format in which the manifest has the rotary tables and the layout of caches as they are read here. */
const OLDEST_VERSION = 7;

export interface FileEntry {
  readonly size: number;
  readonly sha256: string;
}

export interface StageEntry {
  readonly file: string;
  readonly first_layer: number;
  readonly end_layer: number;
  readonly embeds: boolean;
  readonly ends_in_logits: boolean;
}

export interface LayerCache {
  readonly num_heads: number;
  readonly head_size: number;
  readonly dtype: string;
  readonly window: number | null;
}

export interface RotaryEntry {
  readonly frequencies: readonly number[];
  readonly magnitude: number;
}

export interface Dimensions {
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly num_layers: number;
}

/** What the browser reads of `skipstone.json`; the names are those of the file. */
export interface Manifest {
  readonly format_version: number;
  readonly family: string;
  readonly dimensions: Dimensions;
  readonly context_length: number;
  readonly stages: readonly StageEntry[];
  readonly head: string | null;
  readonly cache: readonly LayerCache[];
  readonly recipe: { readonly name?: string; readonly target?: string };
  readonly target?: string;
  readonly stop_ids: readonly number[];
  readonly files: Readonly<Record<string, FileEntry>>;
  readonly graph: string;
  readonly long_rope_from: number | null;
  readonly rotaries: readonly RotaryEntry[];
}

/** Return the manifest that a text holds. Throws BundleError for one that a browser cannot run, with the reason. */
export function readManifest(text: string): Manifest {
  const data = parsed(text);
  const version = data.format_version;
  require(typeof version === "number", "it has no format_version: it is no manifest of a bundle");
  const advice = version > FORMAT_VERSION ? "upgrade this page" : "export it again";
  const isKnown = version >= OLDEST_VERSION && version <= FORMAT_VERSION;
  require(isKnown, `it has format ${version}, ${OLDEST_VERSION} to ${FORMAT_VERSION} are read: ${advice}`);
  for (const name of ["dimensions", "recipe", "files"]) require(isObject(data[name]), `${name} is no object`);
  for (const name of ["stages", "cache", "stop_ids", "rotaries"]) {
    require(Array.isArray(data[name]), `${name} is no list`);
  }
  const manifest = data as unknown as Manifest;
  require(manifest.graph === "skipstone", "its graph was made by optimum: export it without --via optimum");
  const target = manifest.target ?? manifest.recipe.target ?? TARGETS[0]!; // until format 9 the recipe said so
  require(TARGETS.includes(target), `its graphs are for the target ${target}: export it with --target ort`);
  for (const layer of manifest.cache) {
    require(layer.dtype ===
      "float32", `its cache is ${layer.dtype}, a browser takes float32: export it for target ort`);
  }
  const isOwn = manifest.cache.length === manifest.dimensions.num_layers;
  require(isOwn, "layers read the cache of others, as in Gemma 3n: onnxruntime-web 1.30 writes wrong texts then");
  for (const file of graphFiles(manifest)) require(file in manifest.files, `files: ${file} is missing`);
  return manifest;
}

/** The graphs of the full model, in the order in which they run. */
export function graphFiles(manifest: Manifest): string[] {
  const stages = manifest.stages.map((stage) => stage.file);
  return manifest.head === null ? stages : [...stages, manifest.head];
}

function parsed(text: string): Record<string, unknown> {
  try {
    const data: unknown = JSON.parse(text);
    require(isObject(data), "it is no JSON object");
    return data;
  } catch (error) {
    if (error instanceof BundleError) throw error;
    throw new BundleError(`${MANIFEST_NAME} cannot be read: ${messageOf(error)}`);
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function require(holds: boolean, reason: string): asserts holds {
  if (!holds) throw new BundleError(`this bundle cannot be run in a browser: ${reason}`);
}
