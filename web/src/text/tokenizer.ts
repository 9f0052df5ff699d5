import { Tokenizer as Backend } from "@huggingface/tokenizers";
import { BundleError, messageOf } from "../errors.ts";

/** Text to token ids and back, by the `tokenizer.json` of a bundle; a thin cover over `@huggingface/tokenizers`. */
export class Tokenizer {
  readonly #backend: Backend;
  readonly #specialIds: ReadonlySet<number>;

  constructor(tokenizer: object, config: object) {
    try {
      // What the config says of clean-up and special tokens is for chat; only the tokenizer itself is followed here.
      this.#backend = new Backend(tokenizer, { ...config, clean_up_tokenization_spaces: false });
    } catch (error) {
      throw new BundleError(`tokenizer.json is not one that the browser can read: ${messageOf(error)}`);
    }
    const added = [...this.#backend.get_added_tokens_decoder()];
    this.#specialIds = new Set(added.filter(([, token]) => token.special).map(([id]) => id));
  }

  encode(text: string): number[] {
    return this.#backend.encode(text).ids;
  }

  /** The text of tokens, without special ones. Broken bytes become U+FFFD. */
  decode(tokenIds: readonly number[]): string {
    const shown = tokenIds.filter((id) => !this.#specialIds.has(id) && this.#backend.id_to_token(id) !== undefined);
    return shown.length ? this.#backend.decode(shown, { clean_up_tokenization_spaces: false }) : "";
  }
}
