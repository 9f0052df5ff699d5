import type { Step } from "../src/index.ts";

/** What is counted while a text is written. */
export class Figures {
  readonly #start = performance.now();
  #first: number | undefined;
  #last = this.#start;
  #numTokens = 0;
  #numFirst = 0;
  #numCalls = 0;
  #numDrafted = 0;
  #numAccepted = 0;

  add(step: Step): void {
    this.#last = performance.now();
    this.#numTokens += step.tokenIds.length;
    this.#numCalls += 1;
    this.#numDrafted += step.numDrafted;
    this.#numAccepted += step.numAccepted;
    if (this.#first === undefined) {
      this.#first = this.#last;
      this.#numFirst = step.tokenIds.length;
    }
  }

  /** Tokens a second after the first ones, which wait for the prompt to be read. */
  get tokensPerSecond(): number {
    const seconds = (this.#last - (this.#first ?? this.#last)) / 1000;
    return seconds ? (this.#numTokens - this.#numFirst) / seconds : 0;
  }

  /** Names and values to show. */
  shown(): [string, string][] {
    const firstMs = (this.#first ?? this.#start) - this.#start;
    const drafted = this.#numDrafted ? `${this.#numAccepted} of ${this.#numDrafted}` : "none";
    return [
      ["tokens a second", this.tokensPerSecond.toFixed(1)],
      ["tokens", `${this.#numTokens}`],
      ["tokens a call", (this.#numTokens / Math.max(1, this.#numCalls)).toFixed(2)],
      ["guesses right", drafted],
      ["first token", `${firstMs.toFixed(0)} ms`],
    ];
  }
}
