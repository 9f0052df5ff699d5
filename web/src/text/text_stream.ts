import type { Tokenizer } from "./tokenizer.ts";

const REPLACEMENT = "\ufffd";

/**
 * The text of a growing list of tokens, never half a character.
 *
 * The last tokens are decoded again, from a place where the text was whole: so a decoder that drops a space at the
 * start of a text does no harm, and the cost of a push does not grow with the text.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  #tokenIds: number[];
  #numShown: number;

  /** `after` is the last token of the prompt: a text that goes on keeps the space before its first word. */
  constructor(tokenizer: Tokenizer, after?: number) {
    this.#tokenizer = tokenizer;
    this.#tokenIds = after === undefined ? [] : [after];
    this.#numShown = tokenizer.decode(this.#tokenIds).length;
  }

  /** The text that became certain with this token; empty while a character is incomplete. */
  push(tokenId: number): string {
    this.#tokenIds.push(tokenId);
    const text = this.#tokenizer.decode(this.#tokenIds);
    if (text.endsWith(REPLACEMENT)) return "";
    const shown = text.slice(this.#numShown);
    this.#tokenIds = [tokenId];
    this.#numShown = this.#tokenizer.decode(this.#tokenIds).length;
    return shown;
  }

  /** The rest at the end of the text: U+FFFD for a character that never became whole. */
  flush(): string {
    const shown = this.#tokenizer.decode(this.#tokenIds).slice(this.#numShown);
    this.#numShown += shown.length;
    return shown;
  }
}
