import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type LanguageModel, METHODS, type Method } from "../src/index.ts";
import { noTraces, openModel, type TextTrace, tracesOf } from "./traces.ts";

// Threads of WebAssembly do not end by themselves.
after(() => setTimeout(() => process.exit(), 100).unref());

async function written(model: LanguageModel, trace: TextTrace, method: Method): Promise<[number[], string]> {
  const tokenIds: number[] = [];
  let text = "";
  for await (const piece of model.stream(trace.prompt, { decode: method, maxNewTokens: trace.token_ids.length })) {
    tokenIds.push(...(piece.step?.tokenIds ?? []));
    text += piece.text;
  }
  return [tokenIds, text];
}

for (const method of METHODS) {
  test(`a float32 bundle writes Python's tokens, method ${method}`, { skip: noTraces }, async () => {
    const model = await openModel("pebble-mini-fp32");
    for (const trace of tracesOf("pebble-mini-fp32").texts) {
      assert.deepEqual(await written(model, trace, method), [[...trace.token_ids], trace.text]);
    }
  });
}

test("a float32 bundle suggests Python's superposed drafts, with its scores", { skip: noTraces }, async () => {
  const model = await openModel("pebble-mini-fp32");
  for (const trace of tracesOf("pebble-mini-fp32").texts) {
    const suggestions = await model.suggest(trace.prompt);
    assert.deepEqual(
      suggestions.map(({ text, tokenIds }) => [text, tokenIds]),
      trace.suggestions.map(({ text, token_ids }) => [text, token_ids]),
    );
    for (const [index, { score }] of suggestions.entries()) {
      assert.ok(Math.abs(score - trace.suggestions[index]!.score) < 1e-2, `${score}`);
    }
  }
});

for (const name of ["pebble-mini-int8", "pebble-mini-int4", "pebble"]) {
  // Python rounds activations to 8 bits there, here they are float32: near ties may fall otherwise.
  test(`of ${name} most texts begin as Python's, and drafts never change one`, { skip: noTraces }, async () => {
    const model = await openModel(name);
    const shares: number[] = [];
    for (const trace of tracesOf(name).texts) {
      const [plain] = await written(model, trace, "plain");
      assert.deepEqual((await written(model, trace, "ngram"))[0], plain);
      const first = plain.findIndex((id, place) => id !== trace.token_ids[place]);
      shares.push((first < 0 ? plain.length : first) / plain.length);
    }
    const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    console.log(`${name}: as Python for ${shares.map((share) => share.toFixed(2)).join(", ")} of the text`);
    assert.ok(mean > 0.4, `texts are as Python's for ${mean} of their tokens`);
  });
}
