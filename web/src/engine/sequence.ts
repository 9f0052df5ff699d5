import { CacheFull, ConfigError } from "../errors.ts";
import type { BoundCall } from "./call.ts";
import type { Draft } from "./draft.ts";
import { type Blends, requireBlends, tokensAlone } from "./feed.ts";

/** Longer prompts are fed in pieces; between two of them a text can be stopped. */
export const PREFILL_CHUNK = 256;

/** Whether to go on; asked before each call. */
export type Wanted = () => boolean | Promise<boolean>;

/**
 * The tokens of one text and the cache of what the model has seen of them.
 *
 * Invariant: `numCached` < tokenIds.length unless both are 0: the last token is pending, emitted and not yet in the
 * cache. Between `extend` and `commit` the cache also holds the draft's rows. Rows of blends may follow a text that is
 * cached to its last token; no text comes of them.
 */
export class Sequence {
  readonly capacity: number;
  readonly #call: BoundCall;
  readonly #vocabSize: number;
  #tokenIds: number[] = [];
  #numCached = 0;
  #draft: Draft | undefined;
  #numBehind = 0;

  constructor(call: BoundCall, sizes: { capacity: number; vocabSize: number }) {
    this.#call = call;
    this.capacity = sizes.capacity;
    this.#vocabSize = sizes.vocabSize;
  }

  get tokenIds(): readonly number[] {
    return this.#tokenIds;
  }

  get numCached(): number {
    return this.#numCached;
  }

  /** How many more tokens fit. */
  get room(): number {
    return this.capacity - this.#tokenIds.length;
  }

  /** How many tokens the next `extend` feeds before the draft. */
  get numWaiting(): number {
    return this.#tokenIds.length - this.#numCached;
  }

  /** Hold these tokens in place of the text; of what both begin with all stays cached. Throws CacheFull, ConfigError. */
  hold(tokenIds: readonly number[]): void {
    let shared = 0;
    while (shared < tokenIds.length && tokenIds[shared] === this.#tokenIds[shared]) shared++;
    this.rollback(Math.min(shared, this.#tokenIds.length));
    this.append(tokenIds.slice(shared));
  }

  /** Add tokens that are given, not guessed. Throws CacheFull, ConfigError. */
  append(tokenIds: readonly number[]): void {
    this.requireRoom(tokenIds.length);
    this.#requireKnown(tokenIds);
    this.#tokenIds.push(...tokenIds);
    this.#leavePending();
  }

  /** Forget all but the first `length` tokens; copies nothing. */
  rollback(length: number): void {
    this.#tokenIds.length = Math.min(length, this.#tokenIds.length);
    this.#leavePending();
  }

  /** Throw CacheFull unless `numTokens` more fit. */
  requireRoom(numTokens: number): void {
    const needed = this.#tokenIds.length + numTokens;
    if (needed > this.capacity) {
      throw new CacheFull(
        `the text has room for ${this.capacity} tokens, ${needed} are needed; ask for fewer, or shorten the prompt`,
      );
    }
  }

  /**
   * Feed all tokens that are not cached and then the draft; return logits [1 + N, V], valid until the next call.
   *
   * Where `wanted` says no between two pieces of a long prompt, it returns nothing; what was fed stays cached.
   */
  async extend(draft: Draft, wanted: Wanted = () => true): Promise<Float32Array | undefined> {
    if (!this.#tokenIds.length) throw new ConfigError("the text is empty; append at least one token");
    this.requireRoom(draft.tokenIds.length);
    this.#requireKnown(draft.tokenIds);
    this.#leavePending();
    const numLogits = 1 + draft.tokenIds.length;
    let waiting = [...this.#tokenIds.slice(this.#numCached), ...draft.tokenIds];
    while (waiting.length > Math.max(PREFILL_CHUNK, numLogits)) {
      const size = Math.min(PREFILL_CHUNK, waiting.length - numLogits);
      await this.#feed(waiting.slice(0, size), 1);
      waiting = waiting.slice(size);
      if (!(await wanted())) return undefined;
    }
    const logits = await this.#feed(waiting, numLogits);
    this.#numCached -= draft.tokenIds.length;
    this.#draft = draft;
    return logits;
  }

  /** Feed blends behind the cached text and the blends before; return logits [T, V], valid until the next call. */
  async extendByBlends(blends: Blends): Promise<Float32Array> {
    if (!this.#draft || this.#draft.tokenIds.length) {
      throw new ConfigError("blends follow a text whose last token is cached; extend by an empty draft first");
    }
    requireBlends(blends);
    this.#requireKnown(blends.tokenIds.flat());
    const size = blends.tokenIds.length;
    this.requireRoom(this.#numBehind + size);
    const length = this.#numCached + this.#numBehind;
    const logits = await this.#call.run({ ...blends, length, numLogits: size });
    this.#numBehind += size;
    return logits;
  }

  /** Take over what was accepted after `extend`: guesses of the draft, then at most one other token. */
  commit(accepted: readonly number[]): void {
    const draft = this.#draft;
    if (!draft || !accepted.length) throw new ConfigError("commit needs an extend before it and an accepted token");
    let numRight = 0;
    while (numRight < accepted.length && accepted[numRight] === draft.tokenIds[numRight]) numRight++;
    if (accepted.length > numRight + 1) {
      throw new ConfigError(`${accepted.length} tokens accepted, but the draft explains only the first ${numRight}`);
    }
    this.requireRoom(accepted.length);
    this.#requireKnown(accepted);
    this.#tokenIds.push(...accepted);
    this.#numCached += Math.min(numRight, accepted.length);
    this.#leavePending();
  }

  /** Throw an Error if the invariant is broken; for tests. */
  check(): void {
    const pending = this.#draft || !this.#tokenIds.length ? 0 : 1;
    if (this.#numCached > this.#tokenIds.length - pending) throw new Error(`${this.#numCached} rows are cached`);
    if (this.#tokenIds.length > this.capacity) throw new Error(`${this.#tokenIds.length} tokens do not fit`);
  }

  async #feed(tokenIds: readonly number[], numLogits: number): Promise<Float32Array> {
    const logits = await this.#call.run({ ...tokensAlone(tokenIds), length: this.#numCached, numLogits });
    this.#numCached += tokenIds.length;
    return logits;
  }

  #leavePending(): void {
    this.#numCached = Math.min(this.#numCached, Math.max(this.#tokenIds.length - 1, 0));
    this.#draft = undefined;
    this.#numBehind = 0;
  }

  #requireKnown(tokenIds: readonly number[]): void {
    const unknown = tokenIds.find((id) => !Number.isInteger(id) || id < 0 || id >= this.#vocabSize);
    if (unknown !== undefined) {
      throw new ConfigError(`token id ${unknown} is outside the vocabulary of ${this.#vocabSize}`);
    }
  }
}
