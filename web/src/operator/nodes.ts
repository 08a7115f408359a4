// The table of nodes. A node that is no member any more keeps its row for some minutes, because
// operators look for it.

import { byId, el, setName, setText } from "../dom";
import { KeyedList } from "../keyed";
import { hasSaid, type NodeStatus, type Status } from "./status";
import { age, count, maybeMillis, perSecond, stateOf, type State } from "./words";

const GONE_FOR_MS = 10 * 60_000;

interface Row {
  node: NodeStatus;
  asked: boolean;
  /** When it was missing first, in milliseconds since 1970. */
  gone: number | null;
}

const COLUMNS = [
  ["sockets", "Sockets"],
  ["rooms", "Rooms"],
  ["calls", "Calls/s"],
  ["p99", "p99"],
  ["lease", "Lease"],
  ["trip", "Round trip"],
  ["up", "Up"],
  ["version", "Version"],
] as const;

const NOTHING = "—";

export class NodeTable {
  /** By process: a node with a new incarnation is the same node. */
  private readonly known = new Map<string, Row>();
  private readonly rows = new KeyedList<Row>(byId("node-rows"), ({ node }) => processOf(node), makeRow, updateRow);

  show(status: Status): void {
    const now = Date.now();
    const present = new Set(status.nodes.map(processOf));
    for (const [process, row] of this.known) {
      if (present.has(process)) continue;
      row.gone ??= now;
      const back = status.nodes.some(({ name, mesh }) => name === row.node.name || mesh === row.node.mesh);
      if (back || now - row.gone > GONE_FOR_MS) this.known.delete(process);
    }
    for (const node of status.nodes) {
      this.known.set(processOf(node), { node, asked: node.id === status.asked, gone: null });
    }
    const order = new Intl.Collator("en", { numeric: true });
    this.rows.show([...this.known.values()].sort((a, b) => order.compare(a.node.name, b.node.name)));
  }
}

function processOf(node: NodeStatus): string {
  return node.id.split("-")[0] ?? node.id;
}

function makeRow(): HTMLElement {
  const name = el("th", "node-cell", el("bdi", "name"), el("span", "asked-tag", "asked"), el("bdi", "address"));
  name.setAttribute("scope", "row");
  name.setAttribute("role", "rowheader");
  const state = cell("state-cell", "State");
  state.append(el("span", "state"), el("span", "state-more"));
  const row = el("tr", "", name, state, ...COLUMNS.map(([key, label]) => cell(key, label)));
  row.setAttribute("role", "row");
  return row;
}

function cell(className: string, label: string): HTMLTableCellElement {
  const made = el("td", className);
  made.setAttribute("role", "cell");
  made.dataset.label = label;
  return made;
}

function updateRow(row: HTMLElement, { node, asked, gone }: Row): void {
  row.dataset.node = node.name;
  const state = gone === null ? stateOf(node) : goneSince(gone);
  row.dataset.mood = state.mood;
  row.toggleAttribute("data-asked", asked);
  setName(row.querySelector<HTMLElement>(".name")!, node.name);
  setText(row.querySelector(".address")!, node.mesh);
  setText(row.querySelector(".state")!, state.word);
  setText(row.querySelector(".state-more")!, state.more);
  const values = gone === null ? valuesOf(node, asked) : {};
  row.toggleAttribute("data-mute", Object.keys(values).length === 0);
  for (const [key] of COLUMNS) setText(row.querySelector(`.${key}`)!, values[key] ?? NOTHING);
}

function goneSince(at: number): State {
  const since = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" }).format(at);
  return { mood: "odd", word: "gone", more: `no member of the cluster since ${since}` };
}

function valuesOf(node: NodeStatus, asked: boolean): Record<string, string> {
  if (!hasSaid(node)) return {};
  const minute = node.roll_calls.last_minute;
  return {
    sockets: count(node.sockets),
    rooms: count(node.rooms),
    calls: perSecond(minute.per_second),
    p99: maybeMillis(minute.p99_ms),
    lease: node.lease_left_ms === null ? "none" : `${(node.lease_left_ms / 1000).toFixed(1)} s`,
    trip: asked ? NOTHING : maybeMillis(node.round_trip_ms),
    up: age(node.uptime_ms / 1000),
    version: node.version,
  };
}
