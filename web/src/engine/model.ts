import type { Bundle } from "../bundle/bundle.ts";
import { WEIGHTS_NAME } from "../bundle/bundle.ts";
import { graphFiles, type Manifest } from "../bundle/manifest.ts";
import type { Device, Session } from "../devices/device.ts";
import { ConfigError } from "../errors.ts";
import { MOST_WEIGHTS, numPackedWeights, unpacked } from "../graph/unpack.ts";
import { KVCache } from "./cache.ts";
import { BoundCall } from "./call.ts";
import { RotaryTables } from "./rotary_tables.ts";
import { Sequence } from "./sequence.ts";

/** Tokens that a text has room for unless another number is asked for, and the model sees fewer. */
export const DEFAULT_CONTEXT = 2048;

/** The graphs of a bundle, open on a device. */
export class Model {
  readonly manifest: Manifest;
  readonly device: Device;
  readonly #sessions: readonly Session[];

  private constructor(manifest: Manifest, device: Device, sessions: readonly Session[]) {
    this.manifest = manifest;
    this.device = device;
    this.#sessions = sessions;
  }

  /**
   * Open the graphs of a bundle. Where the device has no kernels for packed integers, they are unpacked, unless
   * `keepsPacked`: that takes less memory, and most of the speed.
   */
  static async open(bundle: Bundle, device: Device, keepsPacked = false): Promise<Model> {
    const graphs = graphFiles(bundle.manifest).map((file) => bundle.file(file));
    const weights = WEIGHTS_NAME in bundle.manifest.files ? bundle.file(WEIGHTS_NAME) : new Uint8Array();
    const numWeights = graphs.reduce((sum, graph) => sum + numPackedWeights(graph), 0);
    const unpacks = !keepsPacked && !device.capabilities.has("int4") && numWeights <= MOST_WEIGHTS;
    const sessions: Session[] = [];
    for (const graph of graphs)
      sessions.push(await device.openSession(unpacks ? unpacked(graph, weights) : graph, weights));
    return new Model(bundle.manifest, device, sessions);
  }

  /**
   * The most tokens that a text can have. Longer texts of some models turn all positions by other angles; those are
   * not made here.
   */
  get contextLength(): number {
    return Math.min(this.manifest.context_length, this.manifest.long_rope_from ?? Number.POSITIVE_INFINITY);
  }

  /** Return an empty text with room for `capacity` tokens. Throws ConfigError for more than the model sees. */
  sequence(capacity = Math.min(DEFAULT_CONTEXT, this.contextLength)): Sequence {
    if (!Number.isInteger(capacity) || capacity < 1 || capacity > this.contextLength) {
      throw new ConfigError(`a text has 1 to ${this.contextLength} tokens with this model, ${capacity} were asked for`);
    }
    const cache = new KVCache(this.manifest.cache, this.device, capacity);
    const rotaryTables = new RotaryTables(this.manifest, this.device, capacity);
    const call = new BoundCall(this.device, this.manifest, this.#sessions, cache, rotaryTables);
    return new Sequence(call, { capacity, vocabSize: this.manifest.dimensions.vocab_size });
  }
}
