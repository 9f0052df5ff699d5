import type { LayerCache } from "../bundle/manifest.ts";
import type { Buffer, Device } from "../devices/device.ts";

/**
 * Keys and values [1, K, C, D] of each layer; which of the C rows count is known by whoever passes the length.
 *
 * Past and present are the same memory. Nothing is cleared: a row beyond the length is never read, and the next call
 * writes over it. All rows stay, those that a window has left with them.
 */
export class KVCache {
  readonly capacity: number;
  readonly #layers: readonly (readonly [Buffer, Buffer])[];

  constructor(layers: readonly LayerCache[], device: Device, capacity: number) {
    this.capacity = capacity;
    const buffer = (layer: LayerCache): Buffer =>
      device.resident("float32", [1, layer.num_heads, capacity, layer.head_size]);
    this.#layers = layers.map((layer) => [buffer(layer), buffer(layer)] as const);
  }

  /** Return the buffer of a graph's tensor called past_key_3, present_value_3 and so on. */
  named(name: string): Buffer {
    const [, kind, number] = name.split("_");
    const layer = this.#layers[Number(number)];
    if (!layer) throw new RangeError(`the bundle has no cache for ${name}`);
    return layer[kind === "key" ? 0 : 1];
  }
}
