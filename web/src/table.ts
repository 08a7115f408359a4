// The table of sockets. Owns the order of the rows, the mark of the user's own row, and the maximum
// number of rows on the page.

import { byId, el, setName, setText } from "./dom";
import { KeyedList } from "./keyed";
import type { User } from "./roll";
import { counted } from "./words";

const MAX_ROWS = 500;

const order = new Intl.Collator("en", { numeric: true });

export class RollTable {
  private readonly more = byId("more");
  private readonly nobody = byId("nobody");
  private readonly table = byId("roll-table");
  private readonly rows: KeyedList<User>;
  private shown = false;
  private me: string | undefined;

  constructor() {
    this.rows = new KeyedList<User>(
      byId("roll-rows"),
      (user) => user.id_socket,
      (user) => this.makeRow(user),
      (row, user) => this.updateRow(row, user),
    );
  }

  show(users: readonly User[], me: string | undefined): void {
    this.me = me;
    const sorted = [...users].sort(
      (a, b) => order.compare(a.id_user, b.id_user) || compare(a.id_user, b.id_user) || compare(a.id_socket, b.id_socket),
    );
    this.rows.show(sorted.slice(0, MAX_ROWS));
    this.shown = true;

    const hidden = Math.max(0, sorted.length - MAX_ROWS);
    this.more.hidden = hidden === 0;
    setText(this.more, `and ${counted(hidden, "more socket", "more sockets")}, not listed here`);
    this.nobody.hidden = sorted.length > 0;
    this.table.hidden = sorted.length === 0;
  }

  private makeRow(user: User): HTMLTableRowElement {
    const row = el(
      "tr",
      // The rows of the first answer are not marked as new.
      this.shown ? "arrived" : "",
      cell("th", "user", el("span", "person", el("bdi", "name"), el("span", "you-tag", "you"))),
      cell("td", "socket", el("code", "", user.id_socket)),
      cell("td", "node", el("bdi", "name")),
    );
    row.setAttribute("role", "row");
    row.dataset.socket = user.id_socket;
    return row;
  }

  private updateRow(row: HTMLElement, user: User): void {
    row.toggleAttribute("data-you", user.id_socket === this.me);
    if (row.dataset.user !== user.id_user) row.dataset.user = user.id_user;
    setName(row.querySelector<HTMLElement>(".user .name")!, user.id_user);
    setName(row.querySelector<HTMLElement>(".node .name")!, user.node);
  }
}

// On a phone the rows are a grid, for which browsers drop the table semantics. The roles restore
// them.
function cell(tag: "th" | "td", className: string, content: Node): HTMLTableCellElement {
  const made = el(tag, className, content);
  made.setAttribute("role", tag === "th" ? "rowheader" : "cell");
  if (tag === "th") made.setAttribute("scope", "row");
  return made;
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
