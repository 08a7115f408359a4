// Formats numbers and answers as text. Pure functions without access to the page.

import type { NodeAnswer, Roll } from "./roll";

const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

/** The maximum number of unanswered nodes that are named; further ones are counted. */
const NAMED_NODES = 3;

export function counted(n: number, one: string, many: string): string {
  return `${number.format(n)} ${n === 1 ? one : many}`;
}

export function millis(ms: number): string {
  return `${ms < 10 ? ms.toFixed(1) : number.format(Math.round(ms))} ms`;
}

export function clockTime(iso: string): string {
  const at = new Date(iso);
  return Number.isNaN(at.getTime()) ? iso : clock.format(at);
}

export function completeness(roll: Roll): string {
  if (roll.complete) return "complete";
  const silent = roll.nodes.filter((node) => node.error !== null);
  const open =
    roll.unresolved === null
      ? "an unknown number of sockets unresolved"
      : `${counted(roll.unresolved, "socket", "sockets")} unresolved`;
  return `incomplete: ${silentNodes(silent)}, ${open}`;
}

function silentNodes(silent: NodeAnswer[]): string {
  const [first] = silent;
  if (!first) return "a node did not answer";
  if (silent.length === 1) return `${first.name} did not answer (${first.error})`;
  const named = silent.slice(0, NAMED_NODES).map((node) => `${node.name} (${node.error})`);
  const rest = silent.length - named.length;
  if (rest > 0) named.push(`${rest} more`);
  return `${named.slice(0, -1).join(", ")} and ${named[named.length - 1]} did not answer`;
}

export function nodeSaid(node: NodeAnswer): string {
  if (node.error !== null) return `no answer (${node.error})`;
  const vouched = counted(node.vouched, "socket", "sockets");
  return node.unchanged ? `${vouched}, unchanged` : vouched;
}
