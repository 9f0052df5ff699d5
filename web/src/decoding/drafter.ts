import { type Draft, EMPTY_DRAFT } from "../engine/draft.ts";

/** Guesses what comes next. It can never do harm: the text is the same whatever it guesses. */
export interface Drafter {
  readonly name: string;
  /** Return at most `limit` guesses for the tokens after `history`, whose last token is the pending one. */
  propose(history: readonly number[], limit: number): Draft;
}

/** Guesses nothing: one token per model call. */
export class PlainDrafter implements Drafter {
  readonly name = "plain";

  propose(): Draft {
    return EMPTY_DRAFT;
  }
}

/** What one model call gave: the first `numAccepted` of its tokens were guessed by `drafter`. */
export interface Step {
  readonly tokenIds: readonly number[];
  readonly numDrafted: number;
  readonly numAccepted: number;
  readonly drafter: string;
  readonly draftMs: number;
  readonly modelMs: number;
}
