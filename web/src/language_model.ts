import type { Bundle } from "./bundle/bundle.ts";
import { decode } from "./decoding/decode.ts";
import { type Drafter, PlainDrafter, type Step } from "./decoding/drafter.ts";
import { NgramDrafter } from "./decoding/ngram.ts";
import { Sampler, type SamplingOptions } from "./decoding/sampling.ts";
import type { Device } from "./devices/device.ts";
import { Model } from "./engine/model.ts";
import type { Sequence, Wanted } from "./engine/sequence.ts";
import { ConfigError } from "./errors.ts";
import { superposed } from "./suggest/superposed.ts";
import { TextStream } from "./text/text_stream.ts";
import { Tokenizer } from "./text/tokenizer.ts";

export const METHODS = ["plain", "ngram"] as const;
export type Method = (typeof METHODS)[number];

export interface StreamOptions extends SamplingOptions {
  readonly decode?: Method;
  readonly maxNewTokens?: number;
  readonly wanted?: Wanted;
}

export interface SuggestionOptions {
  readonly numDrafts?: number;
  readonly maxNewTokens?: number;
  readonly wanted?: Wanted;
}

/** A piece of a text, and the step that made it; none for what the end of the text lets out. */
export interface Piece {
  readonly text: string;
  readonly step: Step | undefined;
}

export interface Suggestion {
  readonly text: string;
  readonly score: number;
  readonly tokenIds: readonly number[];
}

/** A model with its tokenizer: text in, text out. It makes one text at a time, and keeps what the next begins with. */
export class LanguageModel {
  readonly model: Model;
  readonly tokenizer: Tokenizer;
  readonly #stopIds: ReadonlySet<number>;
  #kept: Sequence | undefined;

  private constructor(model: Model, tokenizer: Tokenizer) {
    this.model = model;
    this.tokenizer = tokenizer;
    this.#stopIds = new Set(model.manifest.stop_ids);
  }

  /** Open a bundle on a device; see `Model.open`. */
  static async open(bundle: Bundle, device: Device, keepsPacked = false): Promise<LanguageModel> {
    const { tokenizer, config } = bundle.tokenizerData();
    return new LanguageModel(await Model.open(bundle, device, keepsPacked), new Tokenizer(tokenizer, config));
  }

  /** Yield what follows a prompt, the tokens of one model call at a time: the same ones, whatever the method. */
  async *stream(prompt: string, options: StreamOptions = {}): AsyncGenerator<Piece> {
    const sampler = new Sampler(options);
    const sequence = this.#begin(prompt);
    const takesDrafts = this.model.device.capabilities.has("several-rows");
    const drafter = drafterNamed(takesDrafts ? (options.decode ?? "ngram") : "plain");
    const text = new TextStream(this.tokenizer, sequence.tokenIds.at(-1)!);
    const maxNewTokens = options.maxNewTokens ?? Math.min(128, sequence.room);
    for await (const step of decode(sequence, { ...this.#shared(options), drafter, sampler, maxNewTokens })) {
      const shown = step.tokenIds.filter((id) => !this.#stopIds.has(id));
      yield { text: shown.map((id) => text.push(id)).join(""), step };
    }
    yield { text: text.flush(), step: undefined };
  }

  /** Return short texts that may follow a prompt, the best first: superposed drafts, of one pass. */
  async suggest(prompt: string, options: SuggestionOptions = {}): Promise<Suggestion[]> {
    const sequence = this.#begin(prompt);
    const { numDrafts = 3, maxNewTokens = 10 } = options;
    const drafts = await superposed(sequence, { ...this.#shared(options), numDrafts, maxNewTokens });
    return drafts.map((draft) => ({ ...draft, text: this.#textBehind(sequence.tokenIds.at(-1)!, draft.tokenIds) }));
  }

  #begin(prompt: string): Sequence {
    const tokenIds = this.tokenizer.encode(prompt);
    if (!tokenIds.length) throw new ConfigError("the prompt is empty; write at least a word");
    this.#kept ??= this.model.sequence();
    this.#kept.hold(tokenIds);
    return this.#kept;
  }

  #shared(options: { readonly wanted?: Wanted }) {
    const { wanted = () => true } = options;
    return { wanted, stopIds: this.#stopIds, vocabSize: this.model.manifest.dimensions.vocab_size };
  }

  #textBehind(last: number, tokenIds: readonly number[]): string {
    const stream = new TextStream(this.tokenizer, last);
    const shown = tokenIds.filter((id) => !this.#stopIds.has(id));
    return shown.map((id) => stream.push(id)).join("");
  }
}

function drafterNamed(name: Method): Drafter {
  if (name === "plain") return new PlainDrafter();
  if (name === "ngram") return new NgramDrafter();
  throw new ConfigError(`method ${name} is not known; known are ${METHODS.join(", ")}`);
}
