import assert from "node:assert/strict";
import { test } from "node:test";
import {
  allBytes,
  integer,
  integers,
  numberField,
  readMessage,
  textField,
  texts,
  writeMessage,
} from "../src/graph/protobuf.ts";
import { numPackedWeights, shapeOf, unpacked } from "../src/graph/unpack.ts";
import { Bundle } from "../src/index.ts";
import { noTraces, sourceOf } from "./traces.ts";

test("a message that is read and written is the same", () => {
  const message = writeMessage([numberField(1, 300), numberField(2, -1), textField(8, "name"), numberField(1, 7)]);
  const fields = readMessage(message);
  assert.deepEqual(writeMessage(fields), message);
  assert.deepEqual(integers(fields, 1), [300, 7]);
  assert.equal(integer(fields, 2), -1);
  assert.deepEqual(texts(fields, 8), ["name"]);
});

test("half a message is refused", () => {
  const message = writeMessage([textField(1, "a long name")]);
  assert.throws(() => readMessage(message.subarray(0, 5)), /in the middle/);
});

for (const name of ["pebble-mini-int8", "pebble-mini-int4"]) {
  test(`${name} has no packed products when it is unpacked, and the same weights`, { skip: noTraces }, async () => {
    const bundle = await Bundle.load(sourceOf(name));
    const graph = bundle.file("stage-00.onnx");
    assert.ok(numPackedWeights(graph) > 1e6);
    const plain = unpacked(graph, bundle.file("weights.bin"));
    assert.equal(numPackedWeights(plain), 0);
    assert.deepEqual(shapeOf(plain, "layers.0.qkv.data.numbers"), [512, 256]);
    const size = allBytes(readMessage(plain), 7)[0]!.length;
    assert.ok(size < graph.length + 200_000, "zero points are all that is added");
  });
}
