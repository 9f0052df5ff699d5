import type * as Ort from "onnxruntime-web/webgpu";
import type { WasmFactory } from "../src/devices/wasm_module.ts";
import { type Device, WasmDevice, WebGpuDevice } from "../src/index.ts";
import type { DeviceName } from "./messages.ts";

/** The version of onnxruntime-web, which build.mjs puts here: what its URLs name is never out of date. */
declare const ORT_VERSION: string;

/** Return where a file of onnxruntime lies, beside this script. */
function fileUrl(file: string): string {
  return new URL(`./ort/${file}?v=${ORT_VERSION}`, import.meta.url).href;
}

/** Open a device. Memory is shared between threads only where the page is isolated from other origins. */
export async function openDevice(name: DeviceName, threads: number): Promise<Device> {
  const possible = self.crossOriginIsolated ? Math.max(1, Math.trunc(threads) || 1) : 1;
  if (name === "webgpu") {
    const ort: typeof Ort = await import(fileUrl("ort.webgpu.min.mjs"));
    ort.env.wasm.numThreads = possible;
    const file = "ort-wasm-simd-threaded.asyncify";
    ort.env.wasm.wasmPaths = { mjs: fileUrl(`${file}.mjs`), wasm: fileUrl(`${file}.wasm`) };
    return WebGpuDevice.open(ort);
  }
  const { default: factory }: { default: WasmFactory } = await import(fileUrl("ort-wasm-simd-threaded.mjs"));
  return WasmDevice.open(factory, possible, fileUrl);
}
