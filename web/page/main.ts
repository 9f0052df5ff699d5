import type { Method, SamplingOptions } from "../src/index.ts";
import { element, made } from "./elements.ts";
import { Figures } from "./figures.ts";
import type { Answer, DeviceName, ModelNote, Request } from "./messages.ts";

const DEFAULT_BUNDLE = "bundles/pebble";
const DEFAULT_PROMPT = "def read_json(path):\n";
const NUM_SUGGESTED = 10;
const NUM_DRAFTS = 3;
const NO_MODEL = "A language model in this page. Nothing that you type leaves it.";

const prompt = element("prompt", HTMLTextAreaElement);
const tokens = element("tokens", HTMLInputElement);
const output = element("output", HTMLPreElement);
const suggestions = element("suggestions", HTMLOListElement);
const figuresList = element("figures", HTMLDListElement);
const status = element("status", HTMLLabelElement);
const progress = element("progress", HTMLProgressElement);
const loading = element("loading", HTMLElement);
const writeButton = element("write", HTMLButtonElement);
const stopButton = element("stop", HTMLButtonElement);
const bundleInput = element("bundle", HTMLInputElement);
const deviceSelect = element("device", HTMLSelectElement);
const threadsInput = element("threads", HTMLInputElement);

let worker: Worker | undefined;
let isReady = false;
let figures = new Figures();

function ask(request: Request): void {
  worker?.postMessage(request);
}

function setBusy(isBusy: boolean): void {
  writeButton.disabled = isBusy || !isReady;
  stopButton.disabled = !isBusy;
}

/** Load a bundle in a new worker; the old one goes with its memory. */
function load(): void {
  worker?.terminate();
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }: MessageEvent<Answer>) => show(data);
  worker.onerror = (event) => show({ kind: "failed", message: event.message || "the worker does not start" });
  isReady = false;
  writeButton.disabled = stopButton.disabled = true;
  element("model", HTMLParagraphElement).textContent = NO_MODEL;
  loading.hidden = false;
  loading.classList.remove("failed");
  status.textContent = "Loading …";
  progress.hidden = false;
  progress.removeAttribute("value");
  const device = deviceSelect.value as DeviceName;
  const keepsPacked = new URLSearchParams(location.search).has("packed"); // for the benchmark
  ask({ kind: "load", bundle: bundleInput.value, device, threads: Number(threadsInput.value), keepsPacked });
}

function show(answer: Answer): void {
  if (answer.kind === "progress") showProgress(answer.loaded, answer.total);
  else if (answer.kind === "ready") showReady(answer.note);
  else if (answer.kind === "piece") showPiece(answer);
  else if (answer.kind === "suggestions") showSuggestions(answer);
  else if (answer.kind === "done") setBusy(false);
  else showFailure(answer.message);
}

function showProgress(loaded: number, total: number): void {
  const [have, all] = [loaded, total].map((bytes) => (bytes / 1e6).toFixed(1));
  status.textContent = loaded < total ? `Loading: ${have} of ${all} MB` : "Opening the graphs …";
  progress.value = loaded / total;
}

function showReady(note: ModelNote): void {
  isReady = true;
  loading.hidden = true;
  const threads = note.threads === 1 ? "1 thread" : `${note.threads} threads`;
  const device = note.device === "webgpu" ? "WebGPU" : `WebAssembly, ${threads}`;
  element("model", HTMLParagraphElement).textContent = `${note.name}, ${note.precision} · ${device}`;
  document.body.dataset.ready = `${note.loadMs.toFixed(0)} ${note.openMs.toFixed(0)}`;
  setBusy(false);
}

function showPiece({ text, step }: Extract<Answer, { kind: "piece" }>): void {
  if (text) output.append(made("span", text, step?.numAccepted ? "drafted" : ""));
  if (!step) return;
  figures.add(step);
  showFigures(figures.shown());
  document.body.dataset.tokensPerSecond = figures.tokensPerSecond.toFixed(2);
}

function showSuggestions({ suggestions: drafts, ms }: Extract<Answer, { kind: "suggestions" }>): void {
  suggestions.replaceChildren(
    ...drafts.map(({ text }) => {
      const button = made("button", text);
      button.onclick = () => {
        if (writeButton.disabled) return; // one text at a time
        prompt.value += text;
        suggest();
      };
      const item = made("li");
      item.append(button);
      return item;
    }),
  );
  suggestions.hidden = !drafts.length;
  if (drafts.length) {
    showFigures([
      ["drafts, one pass", `${drafts.length}`],
      ["all of them", `${ms.toFixed(0)} ms`],
    ]);
  }
}

function showFigures(pairs: readonly (readonly [string, string])[]): void {
  figuresList.hidden = false;
  figuresList.replaceChildren(
    ...pairs.map(([name, value]) => {
      const pair = made("div");
      pair.append(made("dt", name), made("dd", value));
      return pair;
    }),
  );
}

function showFailure(message: string): void {
  loading.hidden = false;
  loading.classList.add("failed");
  progress.hidden = true;
  status.textContent = message;
  setBusy(false);
}

function sampling(): SamplingOptions {
  const [temperature, topK, topP, seed] = ["temperature", "top-k", "top-p", "seed"].map(
    (id) => element(id, HTMLInputElement).valueAsNumber,
  ) as [number, number, number, number];
  return { temperature, topK, topP, seed };
}

function write(method: Method): void {
  figures = new Figures();
  output.hidden = false;
  suggestions.hidden = figuresList.hidden = true;
  output.replaceChildren(made("span", prompt.value, "prompt"));
  ask({ kind: "write", prompt: prompt.value, method, maxNewTokens: Number(tokens.value), sampling: sampling() });
}

function suggest(): void {
  setBusy(true);
  output.hidden = true;
  ask({ kind: "suggest", prompt: prompt.value, numDrafts: NUM_DRAFTS, maxNewTokens: NUM_SUGGESTED });
}

function begin(): void {
  if (writeButton.disabled) return;
  loading.hidden = true;
  setBusy(true);
  const method = new FormData(element("form", HTMLFormElement)).get("method");
  if (method === "suggest") suggest();
  else write(method as Method);
}

/** Let the service worker keep files before they are fetched, and reload once where the page is not isolated yet. */
async function keepFiles(): Promise<void> {
  if (!("serviceWorker" in navigator)) return;
  await navigator.serviceWorker.register("service_worker.js", { type: "module" });
  await navigator.serviceWorker.ready;
  if (!navigator.serviceWorker.controller) {
    await new Promise((resolve) =>
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true }),
    );
  }
  if (!self.crossOriginIsolated && !sessionStorage.getItem("reloaded")) {
    sessionStorage.setItem("reloaded", "yes");
    location.reload();
    await new Promise(() => {});
  }
}

async function start(): Promise<void> {
  const options = new URLSearchParams(location.search);
  const hasGpu = "gpu" in navigator && (await navigator.gpu.requestAdapter().catch(() => null)) !== null;
  const devices = hasGpu ? ["wasm", "webgpu"] : ["wasm"];
  deviceSelect.replaceChildren(...devices.map((name) => made("option", name)));
  const device = options.get("device") ?? "wasm";
  deviceSelect.value = devices.includes(device) ? device : "wasm";
  bundleInput.value = options.get("bundle") ?? DEFAULT_BUNDLE;
  threadsInput.value = options.get("threads") ?? `${Math.min(navigator.hardwareConcurrency, 8)}`;
  prompt.value = options.get("prompt") ?? DEFAULT_PROMPT;
  await keepFiles().catch((error: unknown) => console.warn("works online only:", error));
  load();
}

element("form", HTMLFormElement).onsubmit = (event) => {
  event.preventDefault();
  begin();
};
element("settings", HTMLFormElement).onsubmit = (event) => {
  event.preventDefault();
  load();
};
prompt.onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) begin();
};
stopButton.onclick = () => ask({ kind: "stop" });
void start();
