import type * as Ort from "onnxruntime-web/webgpu";
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

type OrtModule = typeof Ort;

/** Limits of the adapter that graphs of language models come close to; a device has smaller ones unless it asks. */
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
  "maxStorageBuffersPerShaderStage",
] as const;

/** The graphics processor. The cache and the states between stages stay there; logits come back. */
export class WebGpuDevice implements Device {
  readonly name = "webgpu";
  readonly threads = 1;
  readonly capabilities: ReadonlySet<Capability> = new Set([
    "several-rows",
    "shared-cache",
    "int4",
    "dynamic-shapes",
  ] as const);
  readonly #ort: OrtModule;
  readonly #gpu: GPUDevice;

  private constructor(ort: OrtModule, gpu: GPUDevice) {
    this.#ort = ort;
    this.#gpu = gpu;
  }

  /** Return the device. Throws SkipstoneError where the browser has none. */
  static async open(ort: OrtModule): Promise<WebGpuDevice> {
    const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) throw new SkipstoneError("this browser has no WebGPU adapter; take the device wasm");
    const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
    const requiredFeatures = (["shader-f16", "subgroups"] as GPUFeatureName[]).filter((name) =>
      adapter.features.has(name),
    );
    return new WebGpuDevice(ort, await adapter.requestDevice({ requiredLimits, requiredFeatures }));
  }

  async openSession(graph: Uint8Array, weights: Uint8Array): Promise<Session> {
    const session = await this.#ort.InferenceSession.create(graph, {
      executionProviders: [{ name: "webgpu", device: this.#gpu }],
      externalData: [{ path: WEIGHTS_NAME, data: weights }],
      preferredOutputLocation: "gpu-buffer",
      logSeverityLevel: 3,
    });
    return new WebGpuSession(session);
  }

  bind(session: Session): Binding {
    if (!(session instanceof WebGpuSession)) throw new SkipstoneError("a session of another device cannot be bound");
    return new WebGpuBinding(this.#ort, session);
  }

  zeros(type: ElementType, shape: readonly number[]): Buffer {
    return new HostBuffer(type, shape);
  }

  resident(type: ElementType, shape: readonly number[]): Buffer {
    return new GpuBuffer(this.#gpu, type, shape);
  }

  async close(): Promise<void> {
    this.#gpu.destroy();
  }
}

class WebGpuSession implements Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly session: Ort.InferenceSession;

  constructor(session: Ort.InferenceSession) {
    this.session = session;
    this.inputNames = session.inputNames;
    this.outputNames = session.outputNames;
  }
}

/** Memory of the page, which is copied into each call, and filled by what a call gives. */
class HostBuffer implements Buffer {
  readonly type: ElementType;
  readonly shape: readonly number[];
  #values: Float32Array | Int32Array | BigInt64Array;

  constructor(type: ElementType, shape: readonly number[]) {
    this.type = type;
    this.shape = shape;
    const size = sizeOf(shape);
    const types = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array };
    this.#values = new types[type](size);
  }

  write(values: ArrayLike<number>, at = 0): void {
    if (this.#values instanceof BigInt64Array) this.#values.set(Array.from(values, BigInt), at);
    else this.#values.set(values, at);
  }

  read(length: number): Float32Array {
    if (!(this.#values instanceof Float32Array)) throw new SkipstoneError("only float32 is read");
    return this.#values.subarray(0, length);
  }

  /** Take over what a call gave. */
  take(values: Float32Array): void {
    this.#values = values;
  }

  tensor(ort: OrtModule, shape: readonly number[]): Ort.Tensor {
    return new ort.Tensor(this.type, this.#values.subarray(0, sizeOf(shape)) as Float32Array, shape);
  }
}

class GpuBuffer implements Buffer {
  readonly type: ElementType;
  readonly shape: readonly number[];
  readonly #gpu: GPUDevice;
  readonly #memory: GPUBuffer;

  constructor(gpu: GPUDevice, type: ElementType, shape: readonly number[]) {
    this.#gpu = gpu;
    this.type = type;
    this.shape = shape;
    const { STORAGE, COPY_SRC, COPY_DST } = GPUBufferUsage;
    const size = Math.ceil((sizeOf(shape) * BYTES[type]) / 16) * 16;
    this.#memory = gpu.createBuffer({ size, usage: STORAGE | COPY_SRC | COPY_DST });
  }

  write(values: ArrayLike<number>, at = 0): void {
    this.#gpu.queue.writeBuffer(this.#memory, at * BYTES[this.type], Float32Array.from(values));
  }

  read(): Float32Array {
    throw new SkipstoneError("memory that stays on the device is not read");
  }

  tensor(ort: OrtModule, shape: readonly number[]): Ort.Tensor {
    return ort.Tensor.fromGpuBuffer(this.#memory, { dataType: this.type, dims: shape });
  }
}

class WebGpuBinding implements Binding {
  readonly #ort: OrtModule;
  readonly #session: WebGpuSession;
  readonly #feeds: Record<string, Ort.Tensor> = {};
  readonly #fetches: Record<string, Ort.Tensor | null> = {};
  /** Inputs of the page's memory are made anew before each run, from what is written there then. */
  readonly #hostInputs = new Map<string, [HostBuffer, readonly number[]]>();
  readonly #hostOutputs = new Map<string, HostBuffer>();

  constructor(ort: OrtModule, session: WebGpuSession) {
    this.#ort = ort;
    this.#session = session;
  }

  readFrom(name: string, buffer: Buffer, shape: readonly number[] = buffer.shape): void {
    if (buffer instanceof HostBuffer) this.#hostInputs.set(name, [buffer, shape]);
    else if (buffer instanceof GpuBuffer) this.#feeds[name] = buffer.tensor(this.#ort, shape);
    else throw new SkipstoneError("memory of another device cannot be bound");
  }

  writeTo(name: string, buffer: Buffer, shape: readonly number[] = buffer.shape): void {
    if (buffer instanceof GpuBuffer) this.#fetches[name] = buffer.tensor(this.#ort, shape);
    else if (buffer instanceof HostBuffer) {
      this.#fetches[name] = null;
      this.#hostOutputs.set(name, buffer);
    } else throw new SkipstoneError("memory of another device cannot be bound");
  }

  async run(): Promise<void> {
    for (const [name, [buffer, shape]] of this.#hostInputs) this.#feeds[name] = buffer.tensor(this.#ort, shape);
    const results = await this.#session.session.run(this.#feeds, this.#fetches);
    for (const [name, buffer] of this.#hostOutputs) {
      const result = results[name]!;
      buffer.take((await result.getData(true)) as Float32Array);
    }
  }
}
