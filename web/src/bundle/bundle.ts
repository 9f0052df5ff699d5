import { BundleError, DamagedFile } from "../errors.ts";
import { graphFiles, MANIFEST_NAME, type Manifest, readManifest } from "./manifest.ts";
import type { BundleSource } from "./source.ts";

export const WEIGHTS_NAME = "weights.bin";
const TOKENIZER_NAME = "tokenizer.json";
const TOKENIZER_CONFIG_NAME = "tokenizer_config.json";

/** How much has come in: bytes of `total`. */
export type OnProgress = (loaded: number, total: number) => void;

/** The files of a bundle that a browser needs, all in memory and as the manifest says they are. */
export class Bundle {
  readonly name: string;
  readonly manifest: Manifest;
  readonly #files: Map<string, Uint8Array<ArrayBuffer>>;

  constructor(name: string, manifest: Manifest, files: Map<string, Uint8Array<ArrayBuffer>>) {
    this.name = name;
    this.manifest = manifest;
    this.#files = files;
  }

  /** Read a bundle. Throws BundleError for one that is damaged, missing, or that a browser cannot run. */
  static async load(source: BundleSource, onProgress: OnProgress = () => {}): Promise<Bundle> {
    const manifest = readManifest(await source.text(MANIFEST_NAME));
    const names = filesNeeded(manifest);
    const total = names.reduce((sum, name) => sum + manifest.files[name]!.size, 0);
    const files = new Map<string, Uint8Array<ArrayBuffer>>();
    let loaded = 0;
    for (const name of names) {
      const entry = manifest.files[name]!;
      const bytes = await source.bytes(name, entry, (numBytes) => {
        loaded += numBytes;
        onProgress(loaded, total);
      });
      await requireHash(name, bytes, entry.sha256);
      files.set(name, bytes);
    }
    return new Bundle(source.name, manifest, files);
  }

  /** Return a file of the bundle. */
  file(name: string): Uint8Array<ArrayBuffer> {
    const bytes = this.#files.get(name);
    if (!bytes) throw new BundleError(`the bundle holds no ${name}; export it again`);
    return bytes;
  }

  /** Return what the JSON file of a tokenizer holds, `{}` where the bundle has no such file. */
  tokenizerData(): { tokenizer: object; config: object } {
    const read = (name: string): object => JSON.parse(new TextDecoder().decode(this.#files.get(name) ?? encode("{}")));
    return { tokenizer: read(TOKENIZER_NAME), config: read(TOKENIZER_CONFIG_NAME) };
  }
}

function filesNeeded(manifest: Manifest): string[] {
  const optional = [WEIGHTS_NAME, TOKENIZER_CONFIG_NAME].filter((name) => name in manifest.files);
  const names = [...graphFiles(manifest), TOKENIZER_NAME, ...optional];
  if (!(TOKENIZER_NAME in manifest.files))
    throw new BundleError(`the bundle holds no ${TOKENIZER_NAME}; export it again`);
  return names;
}

/** Pages of insecure origins have no hashes; there the size alone is known to be right. */
async function requireHash(name: string, bytes: Uint8Array<ArrayBuffer>, sha256: string): Promise<void> {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== sha256) throw new DamagedFile(`${name} is damaged: its hash is not the manifest's; load it again`);
}

function encode(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}
