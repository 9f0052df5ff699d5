/** What the page and its worker say to each other. */
import type { Method, SamplingOptions, Step, Suggestion } from "../src/index.ts";

export type DeviceName = "wasm" | "webgpu";

export type Request =
  | {
      readonly kind: "load";
      readonly bundle: string;
      readonly device: DeviceName;
      readonly threads: number;
      readonly keepsPacked: boolean;
    }
  | {
      readonly kind: "write";
      readonly prompt: string;
      readonly method: Method;
      readonly maxNewTokens: number;
      readonly sampling: SamplingOptions;
    }
  | { readonly kind: "suggest"; readonly prompt: string; readonly numDrafts: number; readonly maxNewTokens: number }
  | { readonly kind: "stop" };

/** What is told of a model that is ready. */
export interface ModelNote {
  readonly name: string;
  readonly family: string;
  readonly precision: string;
  readonly device: DeviceName;
  readonly threads: number;
  readonly contextLength: number;
  readonly loadMs: number;
  readonly openMs: number;
}

export type Answer =
  | { readonly kind: "progress"; readonly loaded: number; readonly total: number }
  | { readonly kind: "ready"; readonly note: ModelNote }
  | { readonly kind: "piece"; readonly text: string; readonly step: Step | undefined }
  | { readonly kind: "suggestions"; readonly suggestions: readonly Suggestion[]; readonly ms: number }
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly message: string };
