import type { Draft } from "../engine/draft.ts";

/** Return the number of the largest value of a row of logits; the first of equals. */
export function choose(logits: Float32Array, row: number, vocabSize: number): number {
  let best = row * vocabSize;
  for (let at = best + 1; at < (row + 1) * vocabSize; at++) if (logits[at]! > logits[best]!) best = at;
  return best - row * vocabSize;
}

/** Return the guesses that are what plain decoding would have written, and one token of the model's own. */
export function match(
  draft: Draft,
  logits: Float32Array,
  choice: (logits: Float32Array, row: number) => number,
): number[] {
  const accepted: number[] = [];
  for (let row = 0; row <= draft.tokenIds.length; row++) {
    const tokenId = choice(logits, row);
    accepted.push(tokenId);
    if (tokenId !== draft.tokenIds[row]) break;
  }
  return accepted;
}

/** Return the tokens up to and with the first stop token. */
export function cutAfter(tokenIds: readonly number[], stopIds: ReadonlySet<number>): number[] {
  const index = tokenIds.findIndex((id) => stopIds.has(id));
  return index < 0 ? [...tokenIds] : tokenIds.slice(0, index + 1);
}
