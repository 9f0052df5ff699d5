/** The model lives here, so the page stays responsive. Between calls the worker looks for a message that says stop. */
import { Bundle, DamagedFile, type Device, LanguageModel, messageOf, UrlSource } from "../src/index.ts";
import type { Answer, Request } from "./messages.ts";
import { openDevice } from "./open_device.ts";

let model: LanguageModel | undefined;
let isStopped = false;

function answer(message: Answer): void {
  postMessage(message);
}

/** Let messages that came in be read, and return whether none of them said stop. */
async function wanted(): Promise<boolean> {
  await new Promise<void>((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      resolve();
    };
    channel.port2.postMessage(null);
  });
  return !isStopped;
}

async function load(request: Extract<Request, { kind: "load" }>): Promise<void> {
  const start = performance.now();
  const source = new UrlSource(request.bundle, self.location.href);
  const [bundle, device] = await Promise.all([
    Bundle.load(source, (loaded, total) => answer({ kind: "progress", loaded, total })),
    openDevice(request.device, request.threads),
  ]);
  const loaded = performance.now();
  model = await LanguageModel.open(bundle, device, request.keepsPacked);
  answer({ kind: "ready", note: noteOf(bundle, device, model, loaded - start, performance.now() - loaded) });
}

function noteOf(bundle: Bundle, device: Device, ready: LanguageModel, loadMs: number, openMs: number) {
  const { family, recipe } = bundle.manifest;
  return {
    name: bundle.name.split("/").filter(Boolean).at(-1) ?? bundle.name,
    family,
    precision: recipe.name ?? "",
    device: device.name as "wasm" | "webgpu",
    threads: device.threads,
    contextLength: ready.model.contextLength,
    loadMs,
    openMs,
  };
}

async function write(ready: LanguageModel, request: Extract<Request, { kind: "write" }>): Promise<void> {
  const options = { ...request.sampling, decode: request.method, maxNewTokens: request.maxNewTokens, wanted };
  for await (const { text, step } of ready.stream(request.prompt, options)) answer({ kind: "piece", text, step });
  answer({ kind: "done" });
}

async function suggest(ready: LanguageModel, request: Extract<Request, { kind: "suggest" }>): Promise<void> {
  const start = performance.now();
  const suggestions = await ready.suggest(request.prompt, { ...request, wanted });
  answer({ kind: "suggestions", suggestions, ms: performance.now() - start });
  answer({ kind: "done" });
}

/** Drop what the service worker kept of a bundle, or a damaged file would come back each time. */
async function forget(bundle: string): Promise<void> {
  const folder = new URL(bundle.endsWith("/") ? bundle : `${bundle}/`, self.location.href).href;
  const cache = await caches.open("skipstone");
  for (const request of await cache.keys()) if (request.url.startsWith(folder)) await cache.delete(request);
}

async function serve(request: Request): Promise<void> {
  isStopped = false;
  if (request.kind === "load") {
    await load(request).catch(async (error: unknown) => {
      if (error instanceof DamagedFile && "caches" in self) await forget(request.bundle);
      throw error;
    });
  } else if (!model) answer({ kind: "failed", message: "no model is loaded yet" });
  else if (request.kind === "write") await write(model, request);
  else if (request.kind === "suggest") await suggest(model, request);
}

self.onmessage = ({ data }: MessageEvent<Request>) => {
  if (data.kind === "stop") isStopped = true;
  else serve(data).catch((error: unknown) => answer({ kind: "failed", message: messageOf(error) }));
};
