// A static server that isolates the page, so that threads may share memory.
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "cross-origin",
  "Cache-Control": "no-cache",
};

/**
 * Serve folders and files by the beginnings of their paths, such as { "/": "dist", "/bundles/pebble/": "…" }, to this
 * machine.
 * Returns the address and a function that ends the server.
 */
export async function serve(folders, port = 0) {
  const server = createServer((request, response) => {
    const file = fileOf(folders, pathOf(request.url ?? "/"));
    if (!file) return response.writeHead(404).end("no such file");
    const type = TYPES[extname(file)] ?? "application/octet-stream";
    response.writeHead(200, { ...HEADERS, "Content-Type": type, "Content-Length": statSync(file).size });
    createReadStream(file).pipe(response);
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  const stop = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url: `http://127.0.0.1:${server.address().port}/`, stop };
}

/** The path that a request names; undefined where it is none, such as `/%` or `//`. */
function pathOf(url) {
  try {
    return decodeURIComponent(new URL(url, "http://localhost").pathname);
  } catch {
    return undefined;
  }
}

function fileOf(folders, path) {
  if (path === undefined || path.includes("\0")) return undefined;
  const prefixes = Object.keys(folders).sort((one, other) => other.length - one.length);
  const prefix = prefixes.find((each) => path.startsWith(each));
  if (prefix === undefined) return undefined;
  if (path === prefix && !prefix.endsWith("/")) return existsSync(folders[prefix]) ? folders[prefix] : undefined;
  const rest = normalize(`/${path.slice(prefix.length)}`); // never above the folder
  const file = join(folders[prefix], rest.endsWith("/") ? `${rest}index.html` : rest);
  return existsSync(file) && statSync(file).isFile() ? file : undefined;
}
