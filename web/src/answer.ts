// The parts of the page about an answer as a whole: the counts, its completeness, its duration, the
// result of each node, and whether it is outdated.

import { byId, el, setName, setText } from "./dom";
import { KeyedList } from "./keyed";
import type { NodeAnswer, Roll } from "./roll";
import { clockTime, completeness, counted, millis, nodeSaid } from "./words";

const byName = new Intl.Collator("en", { numeric: true });

export class AnswerPanel {
  private readonly roll = byId("roll");
  private readonly people = byId("people");
  private readonly sockets = byId("sockets");
  private readonly completeness = byId("completeness");
  private readonly asOf = byId<HTMLTimeElement>("as-of");
  private readonly asked = byId("asked");
  private readonly took = byId("took");
  private readonly source = byId("source");
  private readonly fault = byId("fault");
  private readonly nodes = new KeyedList<NodeAnswer>(
    byId("nodes"),
    (node) => node.id,
    makeNode,
    updateNode,
  );
  private last: Roll | undefined;

  show(roll: Roll): void {
    this.last = roll;
    const people = new Set(roll.users.map((user) => user.id_user)).size;
    setText(this.people, counted(people, "person", "people"));
    setText(this.sockets, ` · ${counted(roll.users.length, "socket", "sockets")}`);
    document.title = `(${people}) ${roll.room} · Rollcall`;

    this.completeness.hidden = false;
    this.completeness.dataset.complete = String(roll.complete);
    setText(this.completeness, completeness(roll));

    this.asOf.dateTime = roll.as_of;
    setText(this.asOf, clockTime(roll.as_of));
    setText(this.asked, counted(roll.nodes.length, "node", "nodes"));
    setText(this.took, millis(roll.took_ms));
    setText(this.source, roll.source);
    this.nodes.show([...roll.nodes].sort((a, b) => byName.compare(a.name, b.name)));

    this.roll.removeAttribute("data-stale");
    this.fault.hidden = true;
  }

  /** The roll could not be refreshed: keeps the last one, and shows its age. */
  showFault(message: string): void {
    this.roll.toggleAttribute("data-stale", this.last !== undefined);
    this.fault.hidden = false;
    const kept = this.last ? ` This is the roll of ${clockTime(this.last.as_of)}.` : "";
    const sentence = /[.!?]$/.test(message) ? message : `${message}.`;
    setText(this.fault, `${sentence}${kept} Trying again every second.`);
  }
}

function makeNode(): HTMLElement {
  return el("li", "", el("bdi", "node-name"), el("span", "node-took"), el("span", "node-said"));
}

function updateNode(item: HTMLElement, node: NodeAnswer): void {
  item.toggleAttribute("data-silent", node.error !== null);
  setName(item.querySelector<HTMLElement>(".node-name")!, node.name);
  setText(item.querySelector(".node-took")!, millis(node.took_ms));
  setText(item.querySelector(".node-said")!, nodeSaid(node));
}
