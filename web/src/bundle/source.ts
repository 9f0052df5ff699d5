import { BundleError, DamagedFile } from "../errors.ts";
import type { FileEntry } from "./manifest.ts";

/** Called with the bytes that came in since the last time. */
export type OnBytes = (numBytes: number) => void;

/** Where the files of a bundle come from: a folder on a server, or anything else that gives bytes by name. */
export interface BundleSource {
  readonly name: string;
  text(file: string): Promise<string>;
  bytes(file: string, entry: FileEntry, onBytes: OnBytes): Promise<Uint8Array<ArrayBuffer>>;
}

/**
 * The folder behind a URL.
 *
 * A file is asked for with its hash in the URL, so that what is cached is never out of date, and never fetched twice.
 */
export class UrlSource implements BundleSource {
  readonly name: string;
  readonly #folder: string;
  readonly #signal: AbortSignal | undefined;

  constructor(url: string, base: string, signal?: AbortSignal) {
    this.#folder = new URL(url.endsWith("/") ? url : `${url}/`, base).href;
    this.name = url;
    this.#signal = signal;
  }

  async text(file: string): Promise<string> {
    return (await this.#fetch(file)).text();
  }

  async bytes(file: string, entry: FileEntry, onBytes: OnBytes): Promise<Uint8Array<ArrayBuffer>> {
    const response = await this.#fetch(`${file}?v=${entry.sha256.slice(0, 16)}`);
    const bytes = new Uint8Array(entry.size);
    let length = 0;
    for await (const piece of response.body ?? []) {
      if (length + piece.length > entry.size) throw longer(file, entry);
      bytes.set(piece, length);
      length += piece.length;
      onBytes(piece.length);
    }
    if (length < entry.size) throw new DamagedFile(`${file} has ${length} bytes of ${entry.size}: load it again`);
    return bytes;
  }

  async #fetch(file: string): Promise<Response> {
    const response = await fetch(this.#folder + file, this.#signal ? { signal: this.#signal } : {}).catch((error) => {
      if (this.#signal?.aborted) throw error;
      throw new BundleError(`${this.#folder}${file} cannot be reached; is the server on?`);
    });
    if (!response.ok)
      throw new BundleError(`${this.#folder} holds no ${file} (${response.status}); name a bundle's folder`);
    return response;
  }
}

function longer(file: string, entry: FileEntry): DamagedFile {
  return new DamagedFile(
    `${file} is longer than the ${entry.size} bytes that the manifest says: export the bundle again`,
  );
}
