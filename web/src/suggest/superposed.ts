import { EMPTY_DRAFT } from "../engine/draft.ts";
import type { Blends } from "../engine/feed.ts";
import type { Sequence, Wanted } from "../engine/sequence.ts";
import { ConfigError } from "../errors.ts";
import { type Mixing, mixingFor } from "./mixing.ts";

export interface SuggestOptions {
  readonly numDrafts: number;
  readonly maxNewTokens: number;
  readonly vocabSize: number;
  readonly stopIds: ReadonlySet<number>;
  readonly wanted?: Wanted;
}

/** The tokens of a draft and its mean log score, which compares drafts of one call. */
export interface ScoredDraft {
  readonly tokenIds: readonly number[];
  readonly score: number;
}

/**
 * Write k drafts in one pass: each call is fed a blend of their last tokens; approximate.
 *
 * All drafts get the same law, so they are the likeliest paths through the laws of all steps. Returns the best first,
 * none where `wanted` said no. Source: Superposed Decoding (Shen et al., 2024).
 */
export async function superposed(sequence: Sequence, options: SuggestOptions): Promise<ScoredDraft[]> {
  const { numDrafts, maxNewTokens, wanted = () => true } = options;
  if (numDrafts < 1 || maxNewTokens < 1) throw new ConfigError("at least one draft of one token is made");
  const length = sequence.tokenIds.length;
  sequence.requireRoom(maxNewTokens - 1);
  const drafts = new Superposition(numDrafts, mixingFor(numDrafts, length), options.stopIds);
  try {
    let logits = await sequence.extend(EMPTY_DRAFT, wanted);
    for (let made = 1; logits; made++) {
      drafts.grow(logits.subarray(0, options.vocabSize));
      if (made === maxNewTokens || !drafts.hasGrowing) return best(drafts.scored(), numDrafts);
      logits = (await wanted()) ? await sequence.extendByBlends(drafts.blend()) : undefined;
    }
    return [];
  } finally {
    sequence.rollback(length);
  }
}

/** k drafts that grow by a token at a time from one law, and what has ended of them. At first there is one, empty. */
export class Superposition {
  readonly #numDrafts: number;
  readonly #mixing: Mixing;
  readonly #stopIds: ReadonlySet<number>;
  #texts: readonly (readonly number[])[] = [[]];
  #scores: readonly number[] = [0];
  #ended: ScoredDraft[] = [];

  constructor(numDrafts: number, mixing: Mixing, stopIds: ReadonlySet<number>) {
    this.#numDrafts = numDrafts;
    this.#mixing = mixing;
    this.#stopIds = stopIds;
  }

  get hasGrowing(): boolean {
    return this.#scores.length > 0;
  }

  /** Add a token to each draft, by the law [V] that they share: 2k candidates, of which the k best go on. */
  grow(logits: Float32Array): void {
    const { tokenIds, logprobs } = keptTokens(logits, this.#mixing);
    const candidates = this.#scores.flatMap((score, parent) =>
      tokenIds.map((tokenId, column) => ({
        text: [...this.#texts[parent]!, tokenId],
        score: score + logprobs[column]!,
      })),
    );
    candidates.sort((one, other) => other.score - one.score); // stable: equal scores stay in order
    const kept = candidates.slice(0, 2 * this.#numDrafts);
    const ends = kept.filter(({ text }) => this.#stopIds.has(text.at(-1)!));
    for (const { text, score } of ends) this.#ended.push({ tokenIds: text, score: score / text.length });
    this.#ended = best(this.#ended, this.#numDrafts);
    const growing = kept.filter((candidate) => !ends.includes(candidate)).slice(0, this.#numDrafts);
    this.#texts = growing.map(({ text }) => text);
    this.#scores = growing.map(({ score }) => score);
  }

  /** Return the last tokens of the drafts as one position, each by its share of the scores; always k tokens. */
  blend(): Blends {
    const shares = this.#scores.map((score) => Math.exp(score - this.#scores[0]!));
    const total = shares.reduce((sum, share) => sum + share, 0);
    const missing = new Array<number>(this.#numDrafts - shares.length).fill(0);
    const last = this.#texts.map((text) => text.at(-1)!);
    return { tokenIds: [[...last, ...missing]], weights: [[...shares.map((share) => share / total), ...missing]] };
  }

  /** Return the tokens of each draft and its mean log score. */
  scored(): ScoredDraft[] {
    const growing = this.#texts.map((tokenIds, draft) => ({ tokenIds, score: this.#scores[draft]! / tokenIds.length }));
    return [...growing, ...this.#ended];
  }
}

/** Return the likeliest tokens, best first, equal ones by id, and their log probabilities among themselves. */
function keptTokens(
  logits: Float32Array,
  { temperature, numKept }: Mixing,
): { tokenIds: number[]; logprobs: number[] } {
  const tokenIds: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!;
    if (tokenIds.length === numKept && logit <= logits[tokenIds.at(-1)!]!) continue;
    let place = tokenIds.length;
    while (place > 0 && logits[tokenIds[place - 1]!]! < logit) place--;
    tokenIds.splice(place, 0, id);
    if (tokenIds.length > numKept) tokenIds.pop();
  }
  const scaled = tokenIds.map((id) => (logits[id]! - logits[tokenIds[0]!]!) / temperature);
  const total = Math.log(scaled.reduce((sum, value) => sum + Math.exp(value), 0));
  return { tokenIds, logprobs: scaled.map((value) => value - total) };
}

function best(drafts: readonly ScoredDraft[], num: number): ScoredDraft[] {
  return drafts.toSorted((one, other) => other.score - one.score).slice(0, num);
}
