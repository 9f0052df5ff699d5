/** Guesses for the tokens after the pending one, each behind the one before, and who made them. */
export interface Draft {
  readonly tokenIds: readonly number[];
  readonly source: string;
}

export const EMPTY_DRAFT: Draft = { tokenIds: [], source: "plain" };
