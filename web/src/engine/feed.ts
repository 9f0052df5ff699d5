import { ConfigError } from "../errors.ts";

/** Positions that are each a blend of tokens: ids [T][W], and the weights of their embeddings [T][W]. */
export interface Blends {
  readonly tokenIds: readonly (readonly number[])[];
  readonly weights: readonly (readonly number[])[];
}

/** The input of one model call: T positions behind `length` cached rows; the last `numLogits` give logits. */
export interface Feed extends Blends {
  readonly length: number;
  readonly numLogits: number;
}

/** Return tokens as blends of one. */
export function tokensAlone(tokenIds: readonly number[]): Blends {
  return { tokenIds: tokenIds.map((id) => [id]), weights: tokenIds.map(() => [1]) };
}

/** Throw ConfigError unless each position blends as many tokens, with weights that are numbers. */
export function requireBlends(blends: Blends): void {
  const width = blends.tokenIds[0]?.length ?? 0;
  const isEven = [...blends.tokenIds, ...blends.weights].every((row) => row.length === width);
  if (!width || !isEven || blends.tokenIds.length !== blends.weights.length) {
    throw new ConfigError("blends are token ids and weights of one shape [positions, tokens]");
  }
  if (!blends.weights.flat().every(Number.isFinite)) throw new ConfigError("a weight of a blend is no finite number");
}
