/**
 * Messages of protocol buffers as lists of fields, to read a little of a graph and to change a little of it.
 *
 * What is not looked at is kept byte by byte.
 */

export type Field =
  | { readonly number: number; readonly wire: 0; readonly value: bigint }
  | { readonly number: number; readonly wire: 2; readonly bytes: Uint8Array }
  | { readonly number: number; readonly wire: 1 | 5; readonly raw: Uint8Array };

const VARINT = 0;
const FIXED_64 = 1;
const BYTES = 2;
const FIXED_32 = 5;

/** Return the fields of a message, which refer to its bytes. Throws RangeError for what is no message. */
export function readMessage(bytes: Uint8Array): Field[] {
  const fields: Field[] = [];
  let at = 0;
  const varint = (): bigint => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[at++];
      if (byte === undefined) throw new RangeError("a graph ends in the middle of a number");
      value |= BigInt(byte & 127) << shift;
      if (byte < 128) return value;
    }
  };
  const take = (size: number): Uint8Array => {
    if (at + size > bytes.length) throw new RangeError("a graph ends in the middle of a field");
    at += size;
    return bytes.subarray(at - size, at);
  };
  while (at < bytes.length) {
    const tag = Number(varint());
    const number = tag >> 3;
    const wire = tag & 7;
    if (wire === VARINT) fields.push({ number, wire, value: varint() });
    else if (wire === BYTES) fields.push({ number, wire, bytes: take(Number(varint())) });
    else if (wire === FIXED_64 || wire === FIXED_32)
      fields.push({ number, wire, raw: take(wire === FIXED_64 ? 8 : 4) });
    else throw new RangeError(`a graph has a field of the unknown kind ${wire}`);
  }
  return fields;
}

/** Return the bytes of a message. */
export function writeMessage(fields: readonly Field[]): Uint8Array<ArrayBuffer> {
  const pieces: Uint8Array[] = [];
  for (const field of fields) {
    pieces.push(varintBytes(BigInt((field.number << 3) | field.wire)));
    if (field.wire === VARINT) pieces.push(varintBytes(field.value));
    else if (field.wire === BYTES) pieces.push(varintBytes(BigInt(field.bytes.length)), field.bytes);
    else pieces.push(field.raw);
  }
  return joined(pieces);
}

export function bytesField(number: number, bytes: Uint8Array): Field {
  return { number, wire: BYTES, bytes };
}

export function textField(number: number, text: string): Field {
  return bytesField(number, new TextEncoder().encode(text));
}

/** A whole number, negative ones too. */
export function numberField(number: number, value: number): Field {
  return { number, wire: VARINT, value: BigInt.asUintN(64, BigInt(value)) };
}

/** Return all messages, strings or bytes of a number, in order. */
export function allBytes(fields: readonly Field[], number: number): Uint8Array[] {
  return fields.flatMap((field) => (field.number === number && field.wire === BYTES ? [field.bytes] : []));
}

/** Return all strings of a number, in order. */
export function texts(fields: readonly Field[], number: number): string[] {
  return allBytes(fields, number).map((bytes) => new TextDecoder().decode(bytes));
}

/** Return a whole number, or `missing`. */
export function integer(fields: readonly Field[], number: number, missing = 0): number {
  const field = fields.findLast((each) => each.number === number && each.wire === VARINT);
  return field?.wire === VARINT ? Number(BigInt.asIntN(64, field.value)) : missing;
}

/** Return whole numbers of a repeated field, packed or not. */
export function integers(fields: readonly Field[], number: number): number[] {
  return fields.flatMap((field) => {
    if (field.number !== number) return [];
    if (field.wire === VARINT) return [Number(BigInt.asIntN(64, field.value))];
    return field.wire === BYTES ? unpacked(field.bytes) : [];
  });
}

function unpacked(bytes: Uint8Array): number[] {
  const values: number[] = [];
  let value = 0n;
  let shift = 0n;
  for (const byte of bytes) {
    value |= BigInt(byte & 127) << shift;
    shift += 7n;
    if (byte < 128) {
      values.push(Number(BigInt.asIntN(64, value)));
      value = shift = 0n;
    }
  }
  return values;
}

function varintBytes(value: bigint): Uint8Array {
  const bytes: number[] = [];
  for (let rest = value; ; ) {
    const low = Number(rest & 127n);
    rest >>= 7n;
    bytes.push(rest ? low | 128 : low);
    if (!rest) return Uint8Array.from(bytes);
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}
