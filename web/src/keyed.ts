// Keeps the children of an element equal to a list of items. The child of an item that remains is
// reused, so the page does not flicker, and a text selection remains.

export class KeyedList<T> {
  private readonly children = new Map<string, HTMLElement>();

  constructor(
    private readonly parent: HTMLElement,
    private readonly keyOf: (item: T) => string,
    private readonly make: (item: T) => HTMLElement,
    private readonly update: (child: HTMLElement, item: T) => void,
  ) {}

  show(items: readonly T[]): void {
    const wanted = new Set(items.map(this.keyOf));
    for (const [key, child] of this.children) {
      if (wanted.has(key)) continue;
      child.remove();
      this.children.delete(key);
    }
    let cursor = this.parent.firstElementChild;
    for (const item of items) {
      const key = this.keyOf(item);
      let child = this.children.get(key);
      if (!child) {
        child = this.make(item);
        this.children.set(key, child);
      }
      this.update(child, item);
      if (child === cursor) cursor = cursor.nextElementSibling;
      else this.parent.insertBefore(child, cursor);
    }
  }
}
