/** Tensors of a graph: the same bytes read in another way, and new ones. */
import {
  allBytes,
  bytesField,
  type Field,
  numberField,
  readMessage,
  textField,
  texts,
  writeMessage,
} from "./protobuf.ts";

const TENSOR = { dims: 1, type: 2, name: 8, raw: 9, external: 13 };
const ENTRY = { key: 1, value: 2 };
const INT64 = 7;

/** The types of ONNX that hold integers of so many bits; those of 2 bits came later than the graphs here. */
export const INTEGER_TYPES: ReadonlyMap<number, number> = new Map([
  [4, 21],
  [8, 2],
]);

/** Return a tensor over the same bytes, as numbers of another type and shape. */
export function retyped(tensor: readonly Field[], name: string, type: number, shape: readonly number[]): Uint8Array {
  const { dims, type: typeField, name: nameField } = TENSOR;
  const rest = tensor.filter((field) => ![dims, typeField, nameField].includes(field.number));
  return writeMessage([...head(name, type, shape), ...rest]);
}

/** Return the zero points of a matrix that has none of its own: the middle of the range. */
export function middles(name: string, type: number, bits: number, shape: readonly number[]): Uint8Array {
  const numBytes = (shape.reduce((product, size) => product * size, 1) * bits) / 8;
  const values = new Uint8Array(Math.ceil(numBytes)).fill(bits === 8 ? 0x80 : 0x88);
  return writeMessage([...head(name, type, shape), bytesField(TENSOR.raw, values)]);
}

function head(name: string, type: number, shape: readonly number[]): Field[] {
  const dims = shape.map((size) => numberField(TENSOR.dims, size));
  return [...dims, numberField(TENSOR.type, type), textField(TENSOR.name, name)];
}

/** Return the numbers of a shape or a place. */
export function wholeNumbers(name: string, values: readonly number[]): Uint8Array {
  const bytes = new Uint8Array(BigInt64Array.from(values, BigInt).buffer);
  return writeMessage([...head(name, INT64, [values.length]), bytesField(TENSOR.raw, bytes)]);
}

/** Return zero points of 4 bits without the half byte that fills up each row of an odd number. */
export function withoutPadding(
  tensor: readonly Field[],
  name: string,
  shape: readonly [number, number],
  weights: Uint8Array,
): Uint8Array {
  const [numRows, numColumns] = shape;
  const bytes = bytesOf(tensor, weights);
  const packed = new Uint8Array(Math.ceil((numRows * numColumns) / 2));
  const rowBytes = Math.ceil(numColumns / 2);
  for (let place = 0; place < numRows * numColumns; place++) {
    const column = place % numColumns;
    const byte = bytes[Math.floor(place / numColumns) * rowBytes + (column >> 1)]!;
    packed[place >> 1]! |= ((byte >> (4 * (column & 1))) & 15) << (4 * (place & 1));
  }
  return writeMessage([...head(name, INTEGER_TYPES.get(4)!, shape), bytesField(TENSOR.raw, packed)]);
}

/** Return the bytes of a tensor, which lie in the graph or in the file of weights. */
function bytesOf(tensor: readonly Field[], weights: Uint8Array): Uint8Array {
  const raw = allBytes(tensor, TENSOR.raw)[0];
  if (raw) return raw;
  const entries = allBytes(tensor, TENSOR.external).map(readMessage);
  const places = new Map(entries.map((entry) => [texts(entry, ENTRY.key)[0], Number(texts(entry, ENTRY.value)[0])]));
  const offset = places.get("offset") ?? 0;
  return weights.subarray(offset, offset + (places.get("length") ?? 0));
}
