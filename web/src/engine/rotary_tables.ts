import type { Manifest, RotaryEntry } from "../bundle/manifest.ts";
import type { Buffer, Device } from "../devices/device.ts";

/** Positions that are computed at a time. */
const STEP = 1024;

/** Cosines and sines that attention turns queries and keys by, for texts of at most `length` tokens. */
export class RotaryTables {
  readonly buffers = new Map<string, Buffer>();
  readonly #rotaries: readonly RotaryEntry[];
  readonly #length: number;
  readonly #width: number;
  #numReady = 0;

  constructor(manifest: Manifest, device: Device, length: number) {
    this.#rotaries = manifest.rotaries;
    this.#length = length;
    this.#width = (manifest.cache[0]?.head_size ?? 0) / 2;
    for (const number of this.#rotaries.keys()) {
      for (const kind of ["cosines", "sines"]) {
        this.buffers.set(`${kind}_${number}`, device.resident("float32", [length, this.#width]));
      }
    }
  }

  /** Let the rows of the first `length` positions be there. */
  reach(length: number): void {
    if (length <= this.#numReady) return;
    const end = Math.min(Math.ceil(length / STEP) * STEP, this.#length);
    for (const [number, rotary] of this.#rotaries.entries()) {
      const rows = rotaryRows(rotary, this.#numReady, end, this.#width);
      this.buffers.get(`cosines_${number}`)!.write(rows.cosines, this.#numReady * this.#width);
      this.buffers.get(`sines_${number}`)!.write(rows.sines, this.#numReady * this.#width);
    }
    this.#numReady = end;
  }
}

/** Return cosines and sines of positions, [positions, width] each; angles are rounded to float32, as in Python. */
export function rotaryRows(
  rotary: RotaryEntry,
  start: number,
  end: number,
  width: number,
): { cosines: Float32Array; sines: Float32Array } {
  const cosines = new Float32Array((end - start) * width).fill(1);
  const sines = new Float32Array((end - start) * width);
  for (let position = start; position < end; position++) {
    for (const [channel, frequency] of rotary.frequencies.entries()) {
      const angle = Math.fround(position * Math.fround(frequency));
      const at = (position - start) * width + channel;
      cosines[at] = Math.cos(angle) * rotary.magnitude;
      sines[at] = Math.sin(angle) * rotary.magnitude;
    }
  }
  return { cosines, sines };
}
