import assert from "node:assert/strict";
import { after, test } from "node:test";
import { ATTRIBUTE, NODE } from "../src/graph/nodes.ts";
import { bytesField, type Field, numberField, textField, writeMessage } from "../src/graph/protobuf.ts";
import { unpacked } from "../src/graph/unpack.ts";
import { openDevice } from "./traces.ts";

after(() => setTimeout(() => process.exit(), 100).unref());

const [FLOAT, BYTE] = [1, 2];
const NUM_ROWS = 6;
const BLOCK_SIZE = 16;
const message = (number: number, fields: Field[]): Field => bytesField(number, writeMessage(fields));

function tensor(name: string, type: number, dims: readonly number[], values: Uint8Array | Float32Array): Field {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return message(5, [
    ...dims.map((dim) => numberField(1, dim)),
    numberField(2, type),
    textField(8, name),
    bytesField(9, bytes),
  ]);
}

function place(number: number, name: string, dims: readonly number[]): Field {
  const shape = message(
    2,
    dims.map((dim) => message(1, [numberField(1, dim)])),
  );
  return message(number, [textField(1, name), message(2, [message(1, [numberField(1, FLOAT), shape])])]);
}

/** A graph of one product with packed integers, [1, K] by [N, K]. */
function packedProduct(bits: number, numColumns: number, hasPoints: boolean): Uint8Array {
  const numBlocks = Math.ceil(numColumns / BLOCK_SIZE);
  const blockBytes = (BLOCK_SIZE * bits) / 8;
  const rowBytes = Math.ceil((numBlocks * bits) / 8);
  const mixed = (size: number): Uint8Array => Uint8Array.from({ length: size }, (_, index) => (index * 37 + 11) % 251);
  const scales = Float32Array.from({ length: NUM_ROWS * numBlocks }, (_, index) => 0.01 * (1 + (index % 7)));
  const attributes = Object.entries({ K: numColumns, N: NUM_ROWS, bits, block_size: BLOCK_SIZE });
  const graph = [
    message(1, [
      ...["x", "w", "s", ...(hasPoints ? ["z"] : [])].map((name) => textField(NODE.input, name)),
      textField(NODE.output, "y"),
      textField(NODE.name, "product"),
      textField(NODE.type, "MatMulNBits"),
      textField(NODE.domain, "com.microsoft"),
      ...attributes.map(([name, value]) =>
        message(NODE.attribute, [
          textField(1, name),
          numberField(ATTRIBUTE.integer, value),
          numberField(ATTRIBUTE.type, 2),
        ]),
      ),
    ]),
    textField(2, "graph"),
    tensor("w", BYTE, [NUM_ROWS, numBlocks, blockBytes], mixed(NUM_ROWS * numBlocks * blockBytes)),
    tensor("s", FLOAT, [NUM_ROWS, numBlocks], scales),
    ...(hasPoints ? [tensor("z", BYTE, [NUM_ROWS, rowBytes], mixed(NUM_ROWS * rowBytes))] : []),
    place(11, "x", [1, numColumns]),
    place(12, "y", [1, NUM_ROWS]),
  ];
  const opsets = [
    ["", 21],
    ["com.microsoft", 1],
  ] as const;
  const imports = opsets.map(([domain, version]) => message(8, [textField(1, domain), numberField(2, version)]));
  return writeMessage([numberField(1, 10), message(7, graph), ...imports]);
}

async function product(graph: Uint8Array, numColumns: number): Promise<number[]> {
  const device = await openDevice();
  const binding = device.bind(await device.openSession(graph, new Uint8Array()));
  const [x, y] = [device.zeros("float32", [1, numColumns]), device.zeros("float32", [1, NUM_ROWS])];
  x.write(Array.from({ length: numColumns }, (_, index) => Math.sin(index)));
  binding.readFrom("x", x);
  binding.writeTo("y", y);
  await binding.run();
  return [...y.read(NUM_ROWS)];
}

for (const bits of [4, 8]) {
  for (const numColumns of [64, 48, 41]) {
    for (const hasPoints of [false, true]) {
      const points = hasPoints ? "with zero points" : "without";
      test(`an unpacked product of ${bits} bits and ${numColumns} columns is the packed one, ${points}`, async () => {
        const packed = packedProduct(bits, numColumns, hasPoints);
        const expected = await product(packed, numColumns);
        const found = await product(unpacked(packed, new Uint8Array()), numColumns);
        for (const [row, value] of found.entries())
          assert.ok(Math.abs(value - expected[row]!) < 1e-3, `${found}, ${expected}`);
        assert.ok(expected.some((value) => Math.abs(value) > 0.1));
      });
    }
  }
}
