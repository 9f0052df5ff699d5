import { type Draft, EMPTY_DRAFT } from "../engine/draft.ts";
import type { Drafter } from "./drafter.ts";

const MOST = 64;
const MOVE_ON_FROM = 8;
const LONGEST_MATCH = 32;
/** Runs that are looked up, and the lengths of matches that are told apart from there on. */
const ORDERS = [
  { order: 4, longer: [8, 16, 32] },
  { order: 2, longer: [3] },
  { order: 1, longer: [] },
] as const;

/**
 * Copies what stands behind the newest of the longest matches in prompt and answer, as many tokens as matched.
 *
 * Source: prompt lookup decoding (Saxena, 2023), with the newest match instead of the first. Cost: a scan of the text.
 */
export class NgramDrafter implements Drafter {
  readonly name = "ngram";
  #place = 0;
  #length = 0;
  #match = 0;

  propose(history: readonly number[], limit: number): Draft {
    if (!this.#stillFollows(history) && !this.#finds(history)) return EMPTY_DRAFT;
    const wanted = Math.min(limit, this.#match, MOST);
    const copied = history.slice(this.#place, this.#place + wanted);
    const tokenIds = Array.from({ length: wanted }, (_, index) => copied[index % copied.length]!);
    return { tokenIds, source: this.name };
  }

  /** Whether the text went on as it did at the place copied from; then move on there without looking it up. */
  #stillFollows(history: readonly number[]): boolean {
    const gained = history.length - this.#length;
    if (this.#match < MOVE_ON_FROM) return false;
    for (let index = 0; index < gained; index++) {
      if (history[this.#place + index] !== history[this.#length + index]) return false;
    }
    this.#place += gained;
    this.#length = history.length;
    this.#match = Math.min(this.#match + gained, LONGEST_MATCH);
    return true;
  }

  /** Whether the last tokens stood anywhere before; then copy from there. */
  #finds(history: readonly number[]): boolean {
    this.#length = history.length;
    for (const { order, longer } of ORDERS) {
      const place = newest(history, order);
      if (place === undefined) continue;
      this.#place = place;
      this.#match = order;
      for (const length of longer) {
        if (!endsAlike(history, place, length)) break;
        this.#match = length;
      }
      return true;
    }
    return false;
  }
}

/** Return where the newest earlier run that equals the last `order` tokens ends. */
function newest(history: readonly number[], order: number): number | undefined {
  for (let place = history.length - 1; place >= order; place--) if (endsAlike(history, place, order)) return place;
  return undefined;
}

/** Whether the `length` tokens before `place` are the last ones. */
function endsAlike(history: readonly number[], place: number, length: number): boolean {
  if (place < length) return false;
  for (let back = 1; back <= length; back++) {
    if (history[place - back] !== history[history.length - back]) return false;
  }
  return true;
}
