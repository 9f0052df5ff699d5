/** What runs graphs and holds their memory. */

export type ElementType = "float32" | "int32" | "int64";

export const BYTES: Readonly<Record<ElementType, number>> = { float32: 4, int32: 4, int64: 8 };

/** Memory of one tensor, which graphs read and write in place. */
export interface Buffer {
  readonly type: ElementType;
  readonly shape: readonly number[];
  /** Write values from an element on. */
  write(values: ArrayLike<number>, at?: number): void;
  /** Return the first elements of a float32 buffer that is not resident, valid until the next run. */
  read(length: number): Float32Array;
}

export interface Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
}

/** A session with the memory of its inputs and outputs. */
export interface Binding {
  /** Let an input read a buffer, or with a shape the first elements of it. */
  readFrom(name: string, buffer: Buffer, shape?: readonly number[]): void;
  /** Let an output go into a buffer, or with a shape into the first elements of it. */
  writeTo(name: string, buffer: Buffer, shape?: readonly number[]): void;
  run(): Promise<void>;
}

/** What a device can do, by the names that Python's devices have; see `devices/capabilities.py`. */
export type Capability = "several-rows" | "shared-cache" | "int4" | "dynamic-shapes";

export interface Device {
  readonly name: string;
  readonly threads: number;
  readonly capabilities: ReadonlySet<Capability>;
  /** Open a graph over a file of weights, which it takes over. */
  openSession(graph: Uint8Array, weights: Uint8Array): Promise<Session>;
  bind(session: Session): Binding;
  /** Return memory of zeros that the host writes, and reads. */
  zeros(type: ElementType, shape: readonly number[]): Buffer;
  /** Return memory of zeros that graphs read and write, and the host seldom touches. */
  resident(type: ElementType, shape: readonly number[]): Buffer;
  /** Give all memory back. */
  close(): Promise<void>;
}

/** Return the number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}
