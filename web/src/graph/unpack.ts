/**
 * Products with packed integers become products with float32 matrices, which are unpacked once, when a graph is opened.
 *
 * WebAssembly has no kernels for packed integers: each call would unpack all weights again, which takes ten times as
 * long as the product. Shapes: N rows and K columns of a matrix.
 */
import {
  allBytes,
  bytesField,
  type Field,
  integer,
  integers,
  numberField,
  readMessage,
  textField,
  texts,
  writeMessage,
} from "./protobuf.ts";

/** More weights than this take more memory in float32 than a page has; they stay packed, and are slow. */
export const MOST_WEIGHTS = 600e6;

const MODEL = { graph: 7 };
const GRAPH = { node: 1, initializer: 5 };
const NODE = { input: 1, output: 2, name: 3, type: 4, attribute: 5, domain: 7 };
const TENSOR = { dims: 1, type: 2, name: 8, raw: 9 };
const ATTRIBUTE = { name: 1, integer: 3, integers: 8, type: 20 };
const INTEGER = 2n;
const INTEGERS = 7n;
/** The types of ONNX that hold integers of so many bits; those of 2 bits came later than the graphs here. */
const TYPES = new Map([
  [4, 21],
  [8, 2],
]);

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
export function unpacked(model: Uint8Array): Uint8Array<ArrayBuffer> {
  const fields = readMessage(model).map((field) =>
    field.number === MODEL.graph && field.wire === 2 ? bytesField(MODEL.graph, unpackedGraph(field.bytes)) : field,
  );
  return writeMessage(fields);
}

function unpackedGraph(bytes: Uint8Array): Uint8Array {
  const fields = readMessage(bytes);
  const tensors = tensorsOf(fields);
  const added = new Map<string, Uint8Array>();
  const changed = fields.flatMap((field) => {
    const product = field.number === GRAPH.node && field.wire === 2 ? productOf(readMessage(field.bytes)) : undefined;
    const nodes = product && plainProduct(product, tensors, added);
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
  added: Map<string, Uint8Array>,
): Uint8Array[] | undefined {
  const { numRows, numColumns, bits, blockSize, output, name } = product;
  const [x = "", packed = "", scales = "", points = "", order = "", bias = ""] = product.inputs;
  const type = TYPES.get(bits);
  const data = tensors.get(packed);
  const numBlocks = numColumns / blockSize;
  const isWhole = Number.isInteger(numBlocks) && (bits === 8 || numBlocks % 2 === 0);
  if (type === undefined || !data || order || !isWhole || (points && !tensors.has(points))) return undefined;
  const numbers = `${packed}.numbers`;
  added.set(numbers, retyped(data, numbers, type, [numRows, numColumns]));
  const zeros = points ? `${points}.numbers` : `middle_${bits}_${numRows}_${numBlocks}`;
  const shape = [numRows, numBlocks];
  added.set(zeros, points ? retyped(tensors.get(points)!, zeros, type, shape) : middles(zeros, type, bits, shape));
  const product_ = bias ? `${name}.product` : output;
  const nodes = [
    node("DequantizeLinear", [numbers, scales, zeros], `${name}.rows`, { axis: 1, block_size: blockSize }),
    node("Transpose", [`${name}.rows`], `${name}.columns`, { perm: [1, 0] }),
    node("MatMul", [x, `${name}.columns`], product_, {}),
  ];
  return bias ? [...nodes, node("Add", [product_, bias], output, {})] : nodes;
}

/** Return a tensor over the same bytes, as numbers of another type and shape. */
function retyped(tensor: readonly Field[], name: string, type: number, shape: readonly number[]): Uint8Array {
  const { dims, type: typeField, name: nameField } = TENSOR;
  const rest = tensor.filter((field) => ![dims, typeField, nameField].includes(field.number));
  return writeMessage([...head(name, type, shape), ...rest]);
}

/** Return the zero points of a matrix that has none of its own: the middle of the range. */
function middles(name: string, type: number, bits: number, shape: readonly number[]): Uint8Array {
  const numBytes = (shape.reduce((product, size) => product * size, 1) * bits) / 8;
  const values = new Uint8Array(Math.ceil(numBytes)).fill(bits === 8 ? 0x80 : 0x88);
  return writeMessage([...head(name, type, shape), bytesField(TENSOR.raw, values)]);
}

function head(name: string, type: number, shape: readonly number[]): Field[] {
  const dims = shape.map((size) => numberField(TENSOR.dims, size));
  return [...dims, numberField(TENSOR.type, type), textField(TENSOR.name, name)];
}

function node(
  type: string,
  inputs: readonly string[],
  output: string,
  attributes: Readonly<Record<string, number | readonly number[]>>,
): Uint8Array {
  return writeMessage([
    ...inputs.map((input) => textField(NODE.input, input)),
    textField(NODE.output, output),
    textField(NODE.name, output),
    textField(NODE.type, type),
    ...Object.entries(attributes).map(([name, value]) => bytesField(NODE.attribute, attribute(name, value))),
  ]);
}

function attribute(name: string, value: number | readonly number[]): Uint8Array {
  const fields: Field[] =
    typeof value === "number"
      ? [numberField(ATTRIBUTE.integer, value), { number: ATTRIBUTE.type, wire: 0, value: INTEGER }]
      : [
          ...value.map((each) => numberField(ATTRIBUTE.integers, each)),
          { number: ATTRIBUTE.type, wire: 0, value: INTEGERS },
        ];
  return writeMessage([textField(ATTRIBUTE.name, name), ...fields]);
}

/** Return the shape of a tensor; for tests. */
export function shapeOf(model: Uint8Array, name: string): number[] | undefined {
  const graph = allBytes(readMessage(model), MODEL.graph)[0];
  const tensor = graph && tensorsOf(readMessage(graph)).get(name);
  return tensor && integers(tensor, TENSOR.dims);
}
