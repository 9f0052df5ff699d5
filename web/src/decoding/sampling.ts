import { ConfigError } from "../errors.ts";
import { gumbel } from "./noise.ts";
import { choose } from "./verify.ts";

/** How tokens are drawn; the names and the order of the rules are Python's. */
export interface SamplingOptions {
  /** 0 is greedy: always the likeliest token. */
  readonly temperature?: number;
  /** Only the k likeliest tokens may be drawn; 0 is off. */
  readonly topK?: number;
  /** Only the fewest likeliest tokens that together have this probability; 1 is off. */
  readonly topP?: number;
  readonly seed?: number;
}

/**
 * Chooses the token at a position of a text from its logits: the likeliest, or one drawn.
 *
 * A draw is the largest of logits plus noise of seed, position and token alone. So drafts never change a text, and it
 * is the text that Python writes from the same logits with the same seed.
 */
export class Sampler {
  readonly #temperature: number;
  readonly #topK: number;
  readonly #topP: number;
  readonly #seed: number;

  /** Throws ConfigError for values that cannot be. */
  constructor({ temperature = 0, topK = 0, topP = 1, seed = 0 }: SamplingOptions = {}) {
    const isTemperature = temperature === 0 || (temperature >= 1e-6 && temperature <= 1e30);
    require(isTemperature, "temperature", temperature, "0 for greedy, or a number of at least 0.000001");
    require(Number.isInteger(topK) && topK >= 0, "top-k", topK, "a whole number of at least 1, or 0 for off");
    require(topP > 0 && topP <= 1, "top-p", topP, "above 0 and at most 1, which is off");
    require(Number.isSafeInteger(seed) && seed >= 0, "seed", seed, "a whole number of at least 0");
    this.#temperature = temperature;
    this.#topK = topK;
    this.#topP = topP;
    this.#seed = seed;
  }

  /** Return the token at a position of the text, by a row of logits; of equals the first. */
  choose(logits: Float32Array, row: number, vocabSize: number, position: number): number {
    if (this.#temperature === 0) return choose(logits, row, vocabSize);
    const scaled = logits.slice(row * vocabSize, (row + 1) * vocabSize).map((logit) => logit / this.#temperature);
    const tokenIds = this.#kept(scaled);
    const noise = gumbel(this.#seed, position, tokenIds);
    let best = 0;
    let bestScore = -Infinity;
    for (const [index, id] of tokenIds.entries()) {
      const score = scaled[id]! + noise[index]!;
      if (score > bestScore) [best, bestScore] = [id, score];
    }
    return best;
  }

  /** Return the tokens that may be drawn. */
  #kept(logits: Float32Array): Uint32Array {
    const tokenIds = Uint32Array.from(logits.keys());
    if (!this.#topK && this.#topP === 1) return tokenIds;
    tokenIds.sort((one, other) => logits[other]! - logits[one]! || one - other);
    const best = tokenIds.subarray(0, this.#topK || tokenIds.length);
    return this.#topP < 1 ? shortestPrefix(best, logits, this.#topP).toSorted() : best.toSorted();
  }
}

/** Return the fewest of these tokens, best first, that have at least this share of their probability. */
function shortestPrefix(tokenIds: Uint32Array, logits: Float32Array, share: number): Uint32Array {
  const weights = Float32Array.from(tokenIds, (id) => Math.exp(logits[id]! - logits[tokenIds[0]!]!));
  let left = share * weights.reduce((sum, weight) => sum + weight, 0);
  const end = weights.findIndex((weight) => {
    left -= weight;
    return left <= 0;
  });
  return end < 0 ? tokenIds : tokenIds.subarray(0, end + 1);
}

function require(holds: boolean, name: string, value: number, wanted: string): void {
  if (!holds) throw new ConfigError(`${name} is ${value}; choose ${wanted}`);
}
