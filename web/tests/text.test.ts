import assert from "node:assert/strict";
import { test } from "node:test";
import { Bundle, NgramDrafter, TextStream, Tokenizer } from "../src/index.ts";
import { noTraces, sourceOf, tracesOf } from "./traces.ts";

const NAME = "pebble-mini-fp32";

async function openTokenizer(): Promise<Tokenizer> {
  const { tokenizer, config } = (await Bundle.load(sourceOf(NAME))).tokenizerData();
  return new Tokenizer(tokenizer, config);
}

test("strings have Python's token ids, and ids Python's text", { skip: noTraces }, async () => {
  const tokenizer = await openTokenizer();
  const { tokenizer: encoded, decoded } = tracesOf(NAME);
  for (const { text, ids } of encoded) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
  for (const { text, ids } of decoded) assert.equal(tokenizer.decode(ids), text);
});

test("pieces of a text are the whole text, and never half a character", { skip: noTraces }, async () => {
  const tokenizer = await openTokenizer();
  for (const { ids } of tracesOf(NAME).tokenizer) {
    const stream = new TextStream(tokenizer);
    const pieces = ids.map((id) => stream.push(id));
    assert.ok(pieces.every((piece) => !piece.includes("\ufffd")));
    assert.equal(pieces.join("") + stream.flush(), tokenizer.decode(ids));
  }
});

// Python's index has hash chains of a bounded length: now and then it misses a place, and finds a shorter match.
test("n-gram drafts are Python's, or go on where its index misses a place", { skip: noTraces }, () => {
  let numEqual = 0;
  let num = 0;
  for (const { history, proposals } of tracesOf(NAME).drafts) {
    const drafter = new NgramDrafter();
    for (const [index, expected] of proposals.entries()) {
      const { tokenIds } = drafter.propose(history.slice(0, index + 1), 16);
      assert.deepEqual(tokenIds.slice(0, expected.length), expected);
      num += 1;
      numEqual += Number(tokenIds.length === expected.length);
    }
  }
  assert.ok(numEqual > 0.95 * num, `${numEqual} of ${num} drafts are as long`);
});
