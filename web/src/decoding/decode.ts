import { EMPTY_DRAFT } from "../engine/draft.ts";
import type { Sequence, Wanted } from "../engine/sequence.ts";
import type { Drafter, Step } from "./drafter.ts";
import type { Sampler } from "./sampling.ts";
import { choose, cutAfter, match } from "./verify.ts";

export interface DecodeOptions {
  readonly drafter: Drafter;
  readonly vocabSize: number;
  readonly maxNewTokens: number;
  /** Greedy without one. */
  readonly sampler?: Sampler;
  readonly stopIds: ReadonlySet<number>;
  /** Asked between calls; the text ends where it says no. */
  readonly wanted?: Wanted;
}

/**
 * Yield the tokens that each model call accepted, until a stop token or `maxNewTokens`.
 *
 * Invariant: the last token of `sequence.tokenIds` is pending. The prompt is fed without a draft. Throws CacheFull when
 * prompt and answer do not fit.
 */
export async function* decode(sequence: Sequence, options: DecodeOptions): AsyncGenerator<Step> {
  const { drafter, vocabSize, sampler, stopIds, wanted = () => true } = options;
  let budget = options.maxNewTokens;
  sequence.requireRoom(budget);
  while (budget > 0 && (await wanted())) {
    const start = performance.now();
    const isPrompt = sequence.numWaiting !== 1 || !sequence.numCached;
    const limit = isPrompt ? 0 : Math.min(budget - 1, sequence.room);
    const draft = limit > 0 ? drafter.propose(sequence.tokenIds, limit) : EMPTY_DRAFT;
    const drafted = performance.now();
    const logits = await sequence.extend(draft, wanted);
    if (!logits) return;
    const called = performance.now();
    const length = sequence.tokenIds.length;
    const choice = (rows: Float32Array, row: number): number =>
      sampler ? sampler.choose(rows, row, vocabSize, length + row) : choose(rows, row, vocabSize);
    const tokenIds = cutAfter(match(draft, logits, choice), stopIds);
    sequence.commit(tokenIds);
    budget -= tokenIds.length;
    const numAccepted = countAccepted(draft.tokenIds, tokenIds);
    const times = { draftMs: drafted - start, modelMs: called - drafted };
    yield { tokenIds, numDrafted: draft.tokenIds.length, numAccepted, drafter: draft.source, ...times };
    if (stopIds.has(tokenIds.at(-1)!)) return;
  }
}

function countAccepted(guesses: readonly number[], tokenIds: readonly number[]): number {
  let count = 0;
  while (count < tokenIds.length && guesses[count] === tokenIds[count]) count++;
  return count;
}
