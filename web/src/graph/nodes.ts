/** New nodes of a graph. */
import { bytesField, type Field, numberField, textField, writeMessage } from "./protobuf.ts";

export const NODE = { input: 1, output: 2, name: 3, type: 4, attribute: 5, domain: 7 };
export const ATTRIBUTE = { name: 1, integer: 3, integers: 8, type: 20 };
const INTEGER = 2n;
const INTEGERS = 7n;

/** Return a node of the standard operators with one output, by which it is called. */
export function node(
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
