import assert from "node:assert/strict";
import { test } from "node:test";
import type { BoundCall, Feed } from "../src/index.ts";
import {
  BundleError,
  CacheFull,
  ConfigError,
  type Drafter,
  decode,
  NgramDrafter,
  PlainDrafter,
  readManifest,
  rotaryRows,
  Sequence,
} from "../src/index.ts";

const VOCAB_SIZE = 11;

/** A model whose next token is a function of the last two that it sees; it fails where its cache was not kept. */
class TableCall {
  readonly rows: number[] = [];
  numCalls = 0;

  async run(feed: Feed): Promise<Float32Array> {
    this.numCalls += 1;
    this.rows.length = feed.length;
    const logits: number[] = [];
    for (const [index, [id = 0]] of feed.tokenIds.entries()) {
      this.rows.push(id);
      const [b = 0, c = 0] = this.rows.slice(-2);
      if (index >= feed.tokenIds.length - feed.numLogits) {
        logits.push(...Array.from({ length: VOCAB_SIZE }, (_, token) => Number(token === (b + c) % 5)));
      }
    }
    return Float32Array.from(logits);
  }
}

function newText(capacity = 64): { call: TableCall; sequence: Sequence } {
  const call = new TableCall();
  return { call, sequence: new Sequence(call as unknown as BoundCall, { capacity, vocabSize: VOCAB_SIZE }) };
}

async function written(drafter: Drafter, stopIds: number[] = []): Promise<{ tokenIds: number[]; numCalls: number }> {
  const { call, sequence } = newText();
  sequence.hold([1, 2, 3]);
  const options = { drafter, vocabSize: VOCAB_SIZE, maxNewTokens: 40, stopIds: new Set(stopIds) };
  const tokenIds: number[] = [];
  for await (const step of decode(sequence, options)) {
    tokenIds.push(...step.tokenIds);
    sequence.check();
  }
  assert.deepEqual(sequence.tokenIds, [1, 2, 3, ...tokenIds]);
  return { tokenIds, numCalls: call.numCalls };
}

test("no drafter changes a text, one that guesses at random neither", async () => {
  const plain = await written(new PlainDrafter());
  assert.equal(plain.tokenIds.length, 40);
  for (let seed = 1; seed < 20; seed++) {
    const propose = (history: readonly number[], limit: number) => ({
      source: "random",
      tokenIds: Array.from(
        { length: Math.min(limit, seed % 5) },
        (_, index) => (seed * history.length + index) % VOCAB_SIZE,
      ),
    });
    assert.deepEqual((await written({ name: "random", propose })).tokenIds, plain.tokenIds);
  }
  const drafted = await written(new NgramDrafter());
  assert.deepEqual(drafted.tokenIds, plain.tokenIds);
  assert.ok(drafted.numCalls < plain.numCalls);
});

test("a stop token ends a text, also in the middle of a draft", async () => {
  const { tokenIds } = await written(new PlainDrafter());
  const stopId = tokenIds[20]!;
  const cut = tokenIds.slice(0, tokenIds.indexOf(stopId) + 1);
  assert.deepEqual((await written(new NgramDrafter(), [stopId])).tokenIds, cut);
});

test("a text that is not wanted any more ends between two calls", async () => {
  const { sequence } = newText();
  sequence.hold([1, 2, 3]);
  let left = 4;
  const steps = [];
  const options = { drafter: new PlainDrafter(), vocabSize: VOCAB_SIZE, maxNewTokens: 40, stopIds: new Set<number>() };
  for await (const step of decode(sequence, { ...options, wanted: () => left-- > 0 })) steps.push(step);
  assert.equal(steps.length, 4);
});

test("what two texts begin with stays cached", async () => {
  const { call, sequence } = newText();
  sequence.hold([1, 2, 3, 4, 5]);
  await sequence.extend({ tokenIds: [], source: "plain" });
  sequence.hold([1, 2, 3, 7]);
  assert.equal(sequence.numCached, 2); // the last token of what is shared is fed again
  await sequence.extend({ tokenIds: [], source: "plain" });
  assert.deepEqual(call.rows, [1, 2, 3, 7]);
});

test("a text that does not fit, or holds unknown tokens, is refused", () => {
  const { sequence } = newText(4);
  assert.throws(() => sequence.hold([1, 2, 3, 4, 5]), CacheFull);
  assert.throws(() => sequence.hold([VOCAB_SIZE]), ConfigError);
});

function manifestWith(fields: object): string {
  const whole = {
    format_version: 9,
    dimensions: { num_layers: 0 },
    recipe: {},
    files: {},
    stages: [],
    cache: [],
    stop_ids: [],
  };
  return JSON.stringify({ ...whole, rotaries: [], graph: "skipstone", head: null, ...fields });
}

test("a manifest says why a browser cannot run it", () => {
  for (const [text, reason] of [
    ["{", /cannot be read/],
    ["[]", /no JSON object/],
    ["{}", /no format_version/],
    ['{"format_version": 99}', /upgrade this page/],
    ['{"format_version": 1}', /export it again/],
    ['{"format_version": 8, "dimensions": 1}', /dimensions is no object/],
    [manifestWith({ graph: "optimum" }), /without --via optimum/],
    [manifestWith({ target: "cuda" }), /--target ort/],
    [manifestWith({ recipe: { target: "plain" } }), /--target ort/],
    [manifestWith({ cache: [{ dtype: "float16" }] }), /takes float32/],
    [manifestWith({ dimensions: { num_layers: 2 } }), /cache of others/],
    [manifestWith({ head: "head.onnx" }), /head.onnx is missing/],
  ] as const) {
    assert.throws(
      () => readManifest(text),
      (error) => error instanceof BundleError && reason.test(error.message),
    );
  }
});

test("channels that do not turn have cosine 1 and sine 0", () => {
  const { cosines, sines } = rotaryRows({ frequencies: [1, 0.5], magnitude: 2 }, 3, 4, 3);
  assert.deepEqual(cosines, Float32Array.of(2 * Math.cos(3), 2 * Math.cos(1.5), 1));
  assert.deepEqual(sines, Float32Array.of(2 * Math.sin(3), 2 * Math.sin(1.5), 0));
});
