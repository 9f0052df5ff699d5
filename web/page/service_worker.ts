/**
 * Works offline after the first load, and lets threads share memory on any static server.
 *
 * URLs with a version (`?v=`) never change: what is cached is taken. All else comes from the network while there is
 * one. Every answer carries the headers that isolate the page from other origins.
 */
/// <reference lib="WebWorker" />
export {};

declare const self: ServiceWorkerGlobalScope;

/** The files of the page, which build.mjs puts here. */
declare const PAGE_FILES: readonly string[];

const CACHE = "skipstone";
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "cross-origin",
};

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(PAGE_FILES))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET" && event.request.url.startsWith("http")) {
    event.respondWith(answered(event.request).then(isolated));
  }
});

async function answered(request: Request): Promise<Response> {
  const cache = await caches.open(CACHE);
  const isVersioned = new URL(request.url).searchParams.has("v");
  const kept = isVersioned ? await cache.match(request) : undefined;
  if (kept) return kept;
  try {
    const response = await fetch(request);
    if (response.ok && response.type !== "opaque") await keep(cache, request, response.clone(), isVersioned);
    return response;
  } catch (error) {
    const old = await cache.match(request, { ignoreSearch: true });
    if (old) return old;
    throw error;
  }
}

/** Keep an answer; of one file only the newest version. */
async function keep(cache: Cache, request: Request, response: Response, isVersioned: boolean): Promise<void> {
  if (isVersioned) await cache.delete(request, { ignoreSearch: true });
  // Not awaited: a large file streams to the page and into the cache at once.
  cache.put(request, response).catch((error: unknown) => console.warn("not kept for offline use:", error));
}

function isolated(response: Response): Response {
  if (response.type === "opaque" || response.status === 0) return response;
  const headers = new Headers(response.headers);
  for (const [name, value] of Object.entries(HEADERS)) headers.set(name, value);
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
