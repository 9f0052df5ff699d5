declare module "onnxruntime-web/ort-wasm-simd-threaded.mjs" {
  const factory: import("./devices/wasm_module.ts").WasmFactory;
  export default factory;
}
