/**
 * Products with packed integers become products with float32 matrices, which are unpacked once, when a graph is opened.
 *
 * WebAssembly has no kernels for packed integers: each call would unpack all weights again, which takes ten times as
 * long as the product. Shapes: N rows and K columns of a matrix.
 */
import { ATTRIBUTE, NODE, node } from "./nodes.ts";
import { allBytes, bytesField, type Field, integer, integers, readMessage, texts, writeMessage } from "./protobuf.ts";
import { INTEGER_TYPES, middles, retyped, wholeNumbers, withoutPadding } from "./tensors.ts";

/** More weights than this take more memory in float32 than a page has; they stay packed, and are slow. */
export const MOST_WEIGHTS = 600e6;

const MODEL = { graph: 7 };
const GRAPH = { node: 1, initializer: 5 };
const TENSOR = { dims: 1, name: 8 };

interface Product {
  readonly name: string;
  readonly inputs: readonly string[];
  readonly output: string;
  readonly numRows: number;
  readonly numColumns: number;
  readonly bits: number;
  readonly blockSize: number;
}

/** Return how many weights the products of a graph have that `unpacked` would unpack. */
export function numPackedWeights(graph: Uint8Array): number {
  const products = nodesOf(graph).flatMap((node) => productOf(node) ?? []);
  return products.reduce((sum, product) => sum + product.numRows * product.numColumns, 0);
}

/** Return a graph whose packed products are plain ones; those that ONNX has no integers for stay as they are. */
export function unpacked(model: Uint8Array, weights: Uint8Array): Uint8Array<ArrayBuffer> {
  const fields = readMessage(model).map((field) =>
    field.number === MODEL.graph && field.wire === 2
      ? bytesField(MODEL.graph, unpackedGraph(field.bytes, weights))
      : field,
  );
  return writeMessage(fields);
}

function unpackedGraph(bytes: Uint8Array, weights: Uint8Array): Uint8Array {
  const fields = readMessage(bytes);
  const tensors = tensorsOf(fields);
  const added = new Map<string, Uint8Array>();
  const changed = fields.flatMap((field) => {
    const product = field.number === GRAPH.node && field.wire === 2 ? productOf(readMessage(field.bytes)) : undefined;
    const nodes = product && plainProduct(product, tensors, weights, added);
    return nodes ? nodes.map((node) => bytesField(GRAPH.node, node)) : [field];
  });
  return writeMessage([...changed, ...Array.from(added.values(), (tensor) => bytesField(GRAPH.initializer, tensor))]);
}

function nodesOf(model: Uint8Array): Field[][] {
  const graphs = allBytes(readMessage(model), MODEL.graph);
  return graphs.flatMap((graph) => allBytes(readMessage(graph), GRAPH.node).map(readMessage));
}

function tensorsOf(graph: readonly Field[]): Map<string, Field[]> {
  const tensors = allBytes(graph, GRAPH.initializer).map(readMessage);
  return new Map(tensors.map((tensor) => [texts(tensor, TENSOR.name)[0] ?? "", tensor]));
}

function productOf(node: Field[]): Product | undefined {
  if (texts(node, NODE.type)[0] !== "MatMulNBits") return undefined;
  const attributes = allBytes(node, NODE.attribute).map(readMessage);
  const numbers = new Map(attributes.map((each) => [texts(each, ATTRIBUTE.name)[0], integer(each, ATTRIBUTE.integer)]));
  return {
    name: texts(node, NODE.name)[0] ?? "",
    inputs: texts(node, NODE.input),
    output: texts(node, NODE.output)[0] ?? "",
    numRows: numbers.get("N") ?? 0,
    numColumns: numbers.get("K") ?? 0,
    bits: numbers.get("bits") ?? 4,
    blockSize: numbers.get("block_size") ?? 0,
  };
}

/** Return the nodes in place of a packed product, or nothing where it must stay; new tensors go into `added`. */
function plainProduct(
  product: Product,
  tensors: Map<string, Field[]>,
  weights: Uint8Array,
  added: Map<string, Uint8Array>,
): Uint8Array[] | undefined {
  const { numRows, numColumns, bits, blockSize, output, name } = product;
  const [x = "", packed = "", scales = "", points = "", order = "", bias = ""] = product.inputs;
  const type = INTEGER_TYPES.get(bits);
  const data = tensors.get(packed);
  if (type === undefined || !data || order || (points && !tensors.has(points))) return undefined;
  const numBlocks = Math.ceil(numColumns / blockSize);
  const numbers = `${packed}.numbers`;
  added.set(numbers, retyped(data, numbers, type, [numRows, numBlocks * blockSize]));
  const zeros = points ? `${points}.numbers` : `middle_${bits}_${numRows}_${numBlocks}`;
  added.set(zeros, zeroPoints(tensors.get(points), zeros, { type, bits, shape: [numRows, numBlocks], weights }));
  const rows = `${name}.rows`;
  const nodes = [node("DequantizeLinear", [numbers, scales, zeros], rows, { axis: 1, block_size: blockSize })];
  let whole = rows;
  if (numColumns < numBlocks * blockSize) {
    const place = { start: [0], [`end_${numColumns}`]: [numColumns], axis: [1] };
    for (const [key, value] of Object.entries(place)) added.set(`unpack_${key}`, wholeNumbers(`unpack_${key}`, value));
    whole = `${name}.whole`;
    nodes.push(node("Slice", [rows, ...Object.keys(place).map((key) => `unpack_${key}`)], whole, {}));
  }
  const result = bias ? `${name}.product` : output;
  nodes.push(node("Transpose", [whole], `${name}.columns`, { perm: [1, 0] }));
  nodes.push(node("MatMul", [x, `${name}.columns`], result, {}));
  if (bias) nodes.push(node("Add", [result, bias], output, {}));
  return nodes;
}

interface PointsPlace {
  readonly type: number;
  readonly bits: number;
  readonly shape: readonly [number, number];
  readonly weights: Uint8Array;
}

function zeroPoints(points: Field[] | undefined, name: string, place: PointsPlace): Uint8Array {
  const { type, bits, shape, weights } = place;
  if (!points) return middles(name, type, bits, shape);
  const isPadded = bits === 4 && shape[1] % 2 === 1;
  return isPadded ? withoutPadding(points, name, shape, weights) : retyped(points, name, type, shape);
}

/** Return the shape of a tensor; for tests. */
export function shapeOf(model: Uint8Array, name: string): number[] | undefined {
  const graph = allBytes(readMessage(model), MODEL.graph)[0];
  const tensor = graph && tensorsOf(readMessage(graph)).get(name);
  return tensor && integers(tensor, TENSOR.dims);
}
