// The few DOM helpers the pages share. Text is only ever written through
// textContent, and only when it differs, so that a selection made by the reader
// survives the refresh and screen readers hear changes only.

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** Writes a name that may be cut to fit; the whole of it is in the tooltip. */
export function setName(node: HTMLElement, name: string): void {
  setText(node, name);
  if (node.title !== name) node.title = name;
}

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}
