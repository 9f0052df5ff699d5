/** Return the element of an id, which the page has. */
export function element<T extends HTMLElement>(id: string, type: new () => T): T {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${id}`);
  return found;
}

/** Return a new element with a text. */
export function made<K extends keyof HTMLElementTagNameMap>(tag: K, text = "", name = ""): HTMLElementTagNameMap[K] {
  const fresh = document.createElement(tag);
  fresh.textContent = text;
  if (name) fresh.className = name;
  return fresh;
}
