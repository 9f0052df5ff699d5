import assert from "node:assert/strict";
import { test } from "node:test";
import type { Draft } from "../src/index.ts";
import { ConfigError, gumbel, match, Sampler } from "../src/index.ts";

const NOISE: readonly [number, number, number[], number[]][] = [
  [0, 0, [0, 1, 2], [-0.4662735186548662, -0.08116903215863935, -0.2719792283174781]],
  [7, 1000, [5, 49151, 151935], [0.8475564958096102, -0.8381480834228647, -0.8786595110371316]],
  [9007199254740991, 12, [65535, 65536, 262143], [1.1258587892889174, -0.1409199970557239, -0.043936482643457474]],
];

const LOGITS = Float32Array.of(2, 1, 0, 1, -1);

function shares(sampler: Sampler, num = 4000): number[] {
  const counts = new Array<number>(LOGITS.length).fill(0);
  for (let position = 0; position < num; position++) counts[sampler.choose(LOGITS, 0, LOGITS.length, position)]! += 1;
  return counts.map((count) => count / num);
}

test("noise is Python's, for seeds and tokens of more than 32 bits or near them", () => {
  for (const [seed, position, ids, expected] of NOISE) {
    const found = [...gumbel(seed, position, Uint32Array.from(ids))];
    for (const [index, value] of found.entries()) assert.ok(Math.abs(value - expected[index]!) < 1e-12, `${found}`);
  }
});

test("tokens are drawn as often as the softmax at the temperature says", () => {
  const weights = [...LOGITS].map((logit) => Math.exp(logit / 1.5));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  for (const [id, share] of shares(new Sampler({ temperature: 1.5, seed: 3 })).entries()) {
    assert.ok(Math.abs(share - weights[id]! / total) < 0.03, `${id}: ${share}`);
  }
});

test("top-k and top-p leave the likeliest tokens, of equals the lower id, and at least one", () => {
  const drawn = (options: object) =>
    shares(new Sampler({ temperature: 9, ...options })).flatMap((n, id) => (n ? id : []));
  assert.deepEqual(drawn({}), [0, 1, 2, 3, 4]);
  assert.deepEqual(drawn({ topK: 2 }), [0, 1]);
  assert.deepEqual(drawn({ topK: 99 }), [0, 1, 2, 3, 4]);
  assert.deepEqual(drawn({ topP: 1e-9 }), [0]);
  assert.deepEqual(drawn({ topP: 0.5 }), [0, 1, 3]);
  assert.deepEqual(drawn({ topK: 3, topP: 0.6 }), [0, 1]);
});

test("a drafted text is the plain one at any temperature: a row's noise is that of its position", () => {
  const sampler = new Sampler({ temperature: 2, seed: 7 });
  const rows = Float32Array.from([...LOGITS, ...LOGITS, ...LOGITS]);
  const plain = [10, 11, 12].map((position) => sampler.choose(LOGITS, 0, LOGITS.length, position));
  const draft: Draft = { tokenIds: plain.slice(0, 2), source: "right" };
  assert.deepEqual(
    match(draft, rows, (logits, row) => sampler.choose(logits, row, LOGITS.length, 10 + row)),
    plain,
  );
});

test("values that cannot be are refused by name", () => {
  for (const [options, name] of [
    [{ temperature: -1 }, "temperature"],
    [{ temperature: Number.NaN }, "temperature"],
    [{ topK: 1.5 }, "top-k"],
    [{ topP: 0 }, "top-p"],
    [{ seed: -1 }, "seed"],
  ] as const) {
    assert.throws(
      () => new Sampler(options),
      (error) => error instanceof ConfigError && error.message.startsWith(name),
    );
  }
});
