import { WEIGHTS_NAME } from "../bundle/bundle.ts";
import { SkipstoneError } from "../errors.ts";
import {
  type Binding,
  type Buffer,
  BYTES,
  type Capability,
  type Device,
  type ElementType,
  type Session,
  sizeOf,
} from "./device.ts";
import { allocated, check, copied, ERRORS_ONLY, type WasmFactory, type WasmModule } from "./wasm_module.ts";

const TYPE_NUMBERS: Readonly<Record<ElementType, number>> = { float32: 1, int32: 6, int64: 7 };
const ON_CPU = 1;
const ALL_OPTIMIZATIONS = 99;
/** `disable_quant_qdq`: integers that a graph unpacks are unpacked when it is opened, and never packed again. */
const OPTIONS = new Map([
  ["session.use_ort_model_bytes_directly", "1"],
  ["session.disable_quant_qdq", "1"],
]);

/** The processor, through WebAssembly with SIMD, on several threads where the page may share memory between them. */
export class WasmDevice implements Device {
  readonly name = "wasm";
  readonly threads: number;
  readonly capabilities: ReadonlySet<Capability> = new Set(["several-rows", "shared-cache", "dynamic-shapes"] as const);
  readonly #wasm: WasmModule;

  private constructor(wasm: WasmModule, threads: number) {
    this.#wasm = wasm;
    this.threads = threads;
  }

  /** Return the device; `factory` makes the module and `locateFile` says where its binary is. */
  static async open(factory: WasmFactory, threads: number, locateFile?: (file: string) => string): Promise<WasmDevice> {
    const wasm = await factory({ numThreads: threads, ...(locateFile ? { locateFile } : {}) });
    check(wasm, wasm._OrtInit(threads, ERRORS_ONLY), "onnxruntime does not start");
    return new WasmDevice(wasm, threads);
  }

  async openSession(graph: Uint8Array, weights: Uint8Array): Promise<Session> {
    const wasm = this.#wasm;
    const options = wasm._OrtCreateSessionOptions(ALL_OPTIMIZATIONS, true, true, 0, false, 0, 0, ERRORS_ONLY, 0, 0);
    for (const pair of OPTIONS) {
      const [key, value] = pair.map((text) => copied(wasm, text)) as [number, number];
      check(wasm, wasm._OrtAddSessionConfigEntry(options, key, value), `the option ${pair[0]} cannot be set`);
      wasm._free(key);
      wasm._free(value);
    }
    const address = allocated(wasm, graph.length);
    wasm.HEAPU8.set(graph, address);
    wasm.mountExternalData(WEIGHTS_NAME, weights);
    try {
      const handle = await wasm._OrtCreateSession(address, graph.length, options);
      check(wasm, handle ? 0 : 1, "a graph of the bundle cannot be opened");
      return new WasmSession(wasm, handle);
    } finally {
      wasm.unmountExternalData();
      wasm._free(address);
      wasm._OrtReleaseSessionOptions(options);
    }
  }

  bind(session: Session): Binding {
    if (!(session instanceof WasmSession)) throw new SkipstoneError("a session of another device cannot be bound");
    return new WasmBinding(this.#wasm, session);
  }

  zeros(type: ElementType, shape: readonly number[]): Buffer {
    return new WasmBuffer(this.#wasm, type, shape);
  }

  resident(type: ElementType, shape: readonly number[]): Buffer {
    return this.zeros(type, shape);
  }

  /** Memory goes with the worker that the module lives in. */
  async close(): Promise<void> {}
}

class WasmSession implements Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly handle: number;
  readonly addresses: ReadonlyMap<string, number>;

  constructor(wasm: WasmModule, handle: number) {
    this.handle = handle;
    const at = allocated(wasm, 2 * wasm.PTR_SIZE);
    check(wasm, wasm._OrtGetInputOutputCount(handle, at, at + wasm.PTR_SIZE), "a graph does not tell its inputs");
    const numInputs = wasm.getValue(at, "i32");
    const numOutputs = wasm.getValue(at + wasm.PTR_SIZE, "i32");
    const addresses = Array.from({ length: numInputs + numOutputs }, (_, index) => {
      check(
        wasm,
        wasm._OrtGetInputOutputMetadata(handle, index, at, at + wasm.PTR_SIZE),
        "a graph does not tell a name",
      );
      wasm._OrtFree(wasm.getValue(at + wasm.PTR_SIZE, "*"));
      return wasm.getValue(at, "*");
    });
    wasm._free(at);
    const names = addresses.map((address) => wasm.UTF8ToString(address));
    this.inputNames = names.slice(0, numInputs);
    this.outputNames = names.slice(numInputs);
    this.addresses = new Map(names.map((name, index) => [name, addresses[index]!]));
  }
}

class WasmBuffer implements Buffer {
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly address: number;
  readonly tensor: number;
  readonly #wasm: WasmModule;

  constructor(wasm: WasmModule, type: ElementType, shape: readonly number[]) {
    this.#wasm = wasm;
    this.type = type;
    this.shape = shape;
    const size = sizeOf(shape) * BYTES[type];
    this.address = allocated(wasm, size);
    wasm.HEAPU8.fill(0, this.address, this.address + size);
    this.tensor = this.view(shape);
  }

  write(values: ArrayLike<number>, at = 0): void {
    const start = this.address + at * BYTES[this.type];
    const heap = this.#wasm.HEAPU8.buffer; // another one whenever memory grows
    if (this.type === "float32") new Float32Array(heap, start, values.length).set(values);
    else if (this.type === "int32") new Int32Array(heap, start, values.length).set(values);
    else new BigInt64Array(heap, start, values.length).set(Array.from(values, BigInt));
  }

  read(length: number): Float32Array {
    return new Float32Array(this.#wasm.HEAPU8.buffer, this.address, length);
  }

  /** Return a tensor of the first elements, in another shape; whoever asks releases it. */
  view(shape: readonly number[]): number {
    const wasm = this.#wasm;
    const stack = wasm.stackSave();
    const dims = wasm.stackAlloc(4 * Math.max(1, shape.length));
    for (const [index, size] of shape.entries()) wasm.setValue(dims + 4 * index, size, "i32");
    const size = sizeOf(shape) * BYTES[this.type];
    const tensor = wasm._OrtCreateTensor(TYPE_NUMBERS[this.type], this.address, size, dims, shape.length, ON_CPU);
    wasm.stackRestore(stack);
    check(wasm, tensor ? 0 : 1, "a tensor cannot be made");
    return tensor;
  }
}

/** The addresses of names and tensors, in the order of the graph, as the module wants them. */
class WasmBinding implements Binding {
  readonly #wasm: WasmModule;
  readonly #session: WasmSession;
  readonly #inputs: Slots;
  readonly #outputs: Slots;
  readonly #options: number;

  constructor(wasm: WasmModule, session: WasmSession) {
    this.#wasm = wasm;
    this.#session = session;
    this.#inputs = new Slots(wasm, session, session.inputNames);
    this.#outputs = new Slots(wasm, session, session.outputNames);
    this.#options = wasm._OrtCreateRunOptions(ERRORS_ONLY, 0, false, 0);
  }

  readFrom(name: string, buffer: Buffer, shape?: readonly number[]): void {
    this.#inputs.put(name, buffer, shape);
  }

  writeTo(name: string, buffer: Buffer, shape?: readonly number[]): void {
    this.#outputs.put(name, buffer, shape);
  }

  async run(): Promise<void> {
    const [inputs, outputs] = [this.#inputs, this.#outputs];
    const code = await this.#wasm._OrtRun(
      this.#session.handle,
      inputs.names,
      inputs.tensors,
      inputs.length,
      outputs.names,
      outputs.length,
      outputs.tensors,
      this.#options,
    );
    check(this.#wasm, code, "a call of the model failed");
  }
}

class Slots {
  readonly names: number;
  readonly tensors: number;
  readonly length: number;
  readonly #wasm: WasmModule;
  readonly #places: ReadonlyMap<string, number>;
  readonly #views = new Map<string, { buffer: Buffer; shape: string; tensor: number }>();

  constructor(wasm: WasmModule, session: WasmSession, names: readonly string[]) {
    this.#wasm = wasm;
    this.length = names.length;
    this.names = allocated(wasm, 4 * names.length);
    this.tensors = allocated(wasm, 4 * names.length);
    this.#places = new Map(names.map((name, index) => [name, index]));
    for (const [name, index] of this.#places) {
      wasm.setValue(this.names + 4 * index, session.addresses.get(name)!, "*");
      wasm.setValue(this.tensors + 4 * index, 0, "*");
    }
  }

  put(name: string, buffer: Buffer, shape?: readonly number[]): void {
    if (!(buffer instanceof WasmBuffer)) throw new SkipstoneError("memory of another device cannot be bound");
    const tensor = shape ? this.#view(name, buffer, shape) : buffer.tensor;
    this.#wasm.setValue(this.tensors + 4 * this.#places.get(name)!, tensor, "*");
  }

  #view(name: string, buffer: WasmBuffer, shape: readonly number[]): number {
    const key = shape.join();
    const before = this.#views.get(name);
    if (before?.buffer === buffer && before.shape === key) return before.tensor;
    if (before) this.#wasm._OrtReleaseTensor(before.tensor);
    const tensor = buffer.view(shape);
    this.#views.set(name, { buffer, shape: key, tensor });
    return tensor;
  }
}
