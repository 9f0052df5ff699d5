/**
 * The WebAssembly module of onnxruntime-web, called directly.
 *
 * The package's own interface copies each input in and each output out, the cache of a text with them, at every call.
 * Below it are the calls of this module, which take addresses: so the cache stays where it is, and attention writes it
 * in place, as in Python. They are those of version 1.30; package.json pins it.
 */
import { SkipstoneError } from "../errors.ts";

export interface WasmModule {
  readonly HEAPU8: Uint8Array<ArrayBuffer>;
  readonly PTR_SIZE: number;
  _malloc(size: number): number;
  _free(address: number): void;
  stackSave(): number;
  stackRestore(stack: number): void;
  stackAlloc(size: number): number;
  setValue(address: number, value: number, type: string): void;
  getValue(address: number, type: string): number;
  UTF8ToString(address: number): string;
  lengthBytesUTF8(text: string): number;
  stringToUTF8(text: string, address: number, size: number): void;
  mountExternalData(path: string, data: Uint8Array): void;
  unmountExternalData(): void;
  _OrtInit(threads: number, loggingLevel: number): number;
  _OrtGetLastError(code: number, message: number): number;
  _OrtCreateSessionOptions(
    optimization: number,
    arena: boolean,
    pattern: boolean,
    mode: number,
    profiling: boolean,
    prefix: number,
    logId: number,
    severity: number,
    verbosity: number,
    optimizedPath: number,
  ): number;
  _OrtAddSessionConfigEntry(options: number, key: number, value: number): number;
  _OrtReleaseSessionOptions(options: number): number;
  _OrtCreateSession(data: number, size: number, options: number): number | Promise<number>;
  _OrtReleaseSession(session: number): number;
  _OrtGetInputOutputCount(session: number, inputs: number, outputs: number): number;
  _OrtGetInputOutputMetadata(session: number, index: number, name: number, metadata: number): number;
  _OrtFree(address: number): number;
  _OrtCreateTensor(type: number, data: number, size: number, dims: number, rank: number, location: number): number;
  _OrtReleaseTensor(tensor: number): number;
  _OrtCreateRunOptions(severity: number, verbosity: number, terminate: boolean, tag: number): number;
  _OrtRun(
    session: number,
    inputNames: number,
    inputs: number,
    numInputs: number,
    outputNames: number,
    numOutputs: number,
    outputs: number,
    options: number,
  ): number | Promise<number>;
}

export type WasmFactory = (options: {
  numThreads: number;
  locateFile?: (file: string) => string;
}) => Promise<WasmModule>;

/** Only what is worse than a warning is logged. */
export const ERRORS_ONLY = 3;

/** Throw a SkipstoneError with the module's last error unless `code` is 0. */
export function check(wasm: WasmModule, code: number, what: string): void {
  if (code === 0) return;
  const stack = wasm.stackSave();
  const at = wasm.stackAlloc(2 * wasm.PTR_SIZE);
  wasm._OrtGetLastError(at, at + wasm.PTR_SIZE);
  const address = wasm.getValue(at + wasm.PTR_SIZE, "*");
  const message = address ? wasm.UTF8ToString(address) : "no reason was given";
  wasm.stackRestore(stack);
  throw new SkipstoneError(`${what}: ${message}`);
}

/** Return the address of a copy of a text; whoever asks frees it. */
export function copied(wasm: WasmModule, text: string): number {
  const size = wasm.lengthBytesUTF8(text) + 1;
  const address = allocated(wasm, size);
  wasm.stringToUTF8(text, address, size);
  return address;
}

/** Return the address of so many bytes. Throws SkipstoneError where a page has no more memory. */
export function allocated(wasm: WasmModule, size: number): number {
  const address = wasm._malloc(size) >>> 0;
  if (!address)
    throw new SkipstoneError(`the page has no ${size} bytes of memory left; take a smaller model or context`);
  return address;
}
