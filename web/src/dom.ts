// The DOM helpers that the pages share. Text is written only through textContent, and only if it
// differs. So a selection of the user survives a refresh, and screen readers announce changes only.

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

export function setText(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** Writes a name that may be truncated; the tooltip has all of it. */
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
