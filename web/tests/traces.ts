import { existsSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import factory from "onnxruntime-web/ort-wasm-simd-threaded.mjs";
import { Bundle, type BundleSource, LanguageModel, WasmDevice } from "../src/index.ts";

export interface TextTrace {
  readonly prompt: string;
  readonly prompt_ids: readonly number[];
  readonly token_ids: readonly number[];
  readonly text: string;
  readonly suggestions: readonly { text: string; score: number; token_ids: readonly number[] }[];
}

export interface Traces {
  readonly texts: readonly TextTrace[];
  readonly drafts: readonly { history: readonly number[]; proposals: readonly (readonly number[])[] }[];
  readonly tokenizer: readonly { text: string; ids: readonly number[] }[];
  readonly decoded: readonly { ids: readonly number[]; text: string }[];
}

/** A bundle's folder on this machine. */
export class FolderSource implements BundleSource {
  readonly name: string;

  constructor(folder: string) {
    this.name = folder;
  }

  text(file: string): Promise<string> {
    return readFile(join(this.name, file), "utf-8");
  }

  async bytes(file: string): Promise<Uint8Array<ArrayBuffer>> {
    return new Uint8Array(await readFile(join(this.name, file)));
  }
}

const folder = process.env.SKIPSTONE_TRACES;

/** Why tests on real bundles are skipped; false where they are not. */
export const noTraces =
  folder && existsSync(folder) ? false : "no traces: run `python web/traces.py FOLDER`, then SKIPSTONE_TRACES=FOLDER";

export function tracesOf(name: string): Traces {
  return JSON.parse(readFileSync(join(folder!, name, "traces.json"), "utf-8"));
}

export function sourceOf(name: string): FolderSource {
  return new FolderSource(join(folder!, name));
}

let device: Promise<WasmDevice> | undefined;

/** One module for all tests of a file: two do not end in one process. */
export function openDevice(): Promise<WasmDevice> {
  device ??= WasmDevice.open(factory, 1);
  return device;
}

export async function openModel(name: string): Promise<LanguageModel> {
  return LanguageModel.open(await Bundle.load(sourceOf(name)), await openDevice());
}
