import type { Manifest } from "../bundle/manifest.ts";
import type { Binding, Buffer, Device, ElementType, Session } from "../devices/device.ts";
import { sizeOf } from "../devices/device.ts";
import type { KVCache } from "./cache.ts";
import type { Feed } from "./feed.ts";
import type { RotaryTables } from "./rotary_tables.ts";

/**
 * A call of all stages over one cache, again and again.
 *
 * The cache and the rotary tables are bound once. The memory of other inputs and outputs grows to the largest call.
 * Shapes: T positions, W tokens blended at one, S total length, R rows with logits, E hidden size, V vocabulary.
 */
export class BoundCall {
  readonly #device: Device;
  readonly #manifest: Manifest;
  readonly #rotaryTables: RotaryTables;
  readonly #sessions: readonly Session[];
  readonly #bindings: readonly Binding[];
  readonly #memory = new Map<string, Buffer>();

  constructor(
    device: Device,
    manifest: Manifest,
    sessions: readonly Session[],
    cache: KVCache,
    rotaryTables: RotaryTables,
  ) {
    this.#device = device;
    this.#manifest = manifest;
    this.#rotaryTables = rotaryTables;
    this.#sessions = sessions;
    this.#bindings = sessions.map((session) => {
      const binding = device.bind(session);
      for (const name of session.inputNames) {
        const buffer = name.startsWith("past_") ? cache.named(name) : rotaryTables.buffers.get(name);
        if (buffer) binding.readFrom(name, buffer);
      }
      for (const name of session.outputNames) {
        if (name.startsWith("present_")) binding.writeTo(name, cache.named(name));
      }
      return binding;
    });
  }

  /** Run a feed; return the logits of its last rows [R, V], valid until the next run. */
  async run(feed: Feed): Promise<Float32Array> {
    this.#rotaryTables.reach(feed.length + feed.tokenIds.length);
    const inputs = this.#inputs(feed);
    for (const [index, session] of this.#sessions.entries()) await this.#runStage(index, session, inputs, feed);
    const size = feed.numLogits * this.#manifest.dimensions.vocab_size;
    return this.#memory.get("logits")!.read(size);
  }

  async #runStage(index: number, session: Session, inputs: Map<string, Slice>, feed: Feed): Promise<void> {
    const binding = this.#bindings[index]!;
    for (const name of session.inputNames) {
      const slice = inputs.get(name.replace(/^(seqlens_k|total_length)_\d+$/, "$1"));
      if (slice) binding.readFrom(name, slice.buffer, slice.shape);
    }
    const { hidden_size, vocab_size } = this.#manifest.dimensions;
    const hidden = [1, feed.tokenIds.length, hidden_size];
    for (const name of session.outputNames) {
      if (name === "hidden_out") {
        // Stages take turns in two places, as none may write what it reads.
        const memory = this.#slice(`hidden_${index % 2}`, "float32", hidden);
        binding.writeTo(name, memory.buffer, memory.shape);
        inputs.set("hidden", memory);
      } else if (name === "logits") {
        const memory = this.#slice("logits", "float32", [feed.numLogits, vocab_size]);
        binding.writeTo(name, memory.buffer, memory.shape);
      }
    }
    await binding.run();
  }

  #inputs(feed: Feed): Map<string, Slice> {
    const numTokens = feed.tokenIds.length;
    const width = feed.tokenIds[0]!.length;
    const total = feed.length + numTokens;
    const rows = range(0, numTokens);
    const lengths = this.#written("seqlens_k", "int32", [1], [total - 1]);
    const sum = this.#written("total_sequence_length", "int32", [], [total]);
    return new Map([
      ["token_ids", this.#written("token_ids", "int64", [1, numTokens, width], feed.tokenIds.flat())],
      ["token_weights", this.#written("token_weights", "float32", [1, numTokens, width], feed.weights.flat())],
      ["position_ids", this.#written("position_ids", "int64", [1, numTokens], range(feed.length, total))],
      ["seqlens_k", lengths],
      ["total_sequence_length", sum],
      ["total_length", sum],
      ["attention_bias", this.#slice("attention_bias", "float32", [1, 1, numTokens, total])],
      ["attention_rows", this.#written("rows_of_attention", "int64", [numTokens], rows)],
      ["token_rows", this.#written("rows_of_attention", "int64", [numTokens], rows)],
      ["rows", this.#written("rows", "int64", [feed.numLogits], rows.slice(numTokens - feed.numLogits))],
    ]);
  }

  #written(name: string, type: ElementType, shape: readonly number[], values: readonly number[]): Slice {
    const slice = this.#slice(name, type, shape);
    slice.buffer.write(values);
    return slice;
  }

  /** Return memory for a shape; more than was ever asked for is made twice as large, and is zeros. */
  #slice(name: string, type: ElementType, shape: readonly number[]): Slice {
    let buffer = this.#memory.get(name);
    if (!buffer || sizeOf(buffer.shape) < sizeOf(shape)) {
      const size = buffer ? Math.max(2 * sizeOf(buffer.shape), sizeOf(shape)) : sizeOf(shape);
      const isResident = name.startsWith("hidden_");
      buffer = isResident ? this.#device.resident(type, [size]) : this.#device.zeros(type, [size]);
      this.#memory.set(name, buffer);
    }
    return { buffer, shape };
  }
}

interface Slice {
  readonly buffer: Buffer;
  readonly shape: readonly number[];
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, index) => start + index);
}
