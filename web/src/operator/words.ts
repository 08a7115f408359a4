// Formats reports of nodes as text. Pure functions, as in ../words.

import { counted, millis } from "../words";
import { hasSaid, type NodeStatus, type Status } from "./status";

const number = new Intl.NumberFormat("en");
const rate = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

/** The health of a node: `fine`, `odd` (a state that should not last) or `bad`. */
export type Mood = "fine" | "odd" | "bad";

export interface State {
  mood: Mood;
  word: string;
  /** An explanation, if the state needs one. */
  more: string;
}

const ERRORS: Record<string, string> = {
  deadline: "no answer within the deadline",
  refused: "connection refused, or mTLS failed",
  failed: "connection lost, or invalid answer",
  overloaded: "the node is overloaded",
};

/** The words are those of `rollcall status`. */
export function stateOf(node: NodeStatus): State {
  if (node.error === "older") {
    return { mood: "odd", word: "responds", more: "but its version is too old to report its state" };
  }
  if (!hasSaid(node)) {
    const heard = node.heard_ms === null ? "never seen" : `last seen ${age(node.heard_ms / 1000)} ago`;
    const why = ERRORS[node.error ?? ""] ?? node.error;
    const lease = node.leased ? "leased" : "no lease";
    const circuit = node.circuit_open ? ", circuit open" : "";
    return { mood: "bad", word: "not responding", more: `${why}; ${heard}, ${lease}${circuit}` };
  }
  if (!node.counts) {
    return { mood: "bad", word: "isolated", more: "the node has no lease, and most nodes do not answer it" };
  }
  if (node.draining) return { mood: "odd", word: "draining", more: "the node disconnects its clients" };
  if (!node.whole) {
    return { mood: "odd", word: "not indexed", more: "Redis does not list every room of the node yet" };
  }
  return { mood: "fine", word: "healthy", more: node.circuit_open ? "circuit open" : "" };
}

export function summary(status: Status): string {
  const fine = status.nodes.filter((node) => hasSaid(node) && node.counts).length;
  const all = status.nodes.length;
  const nodes = all === 1 && fine === 1 ? "One node responds and is active" : `${fine} of ${all} nodes respond and are active`;
  return `${nodes} · ${counted(status.sockets, "socket", "sockets")}`;
}

export function count(n: number): string {
  return number.format(n);
}

export function perSecond(n: number): string {
  return rate.format(n);
}

export function maybeMillis(ms: number | null): string {
  return ms === null ? "—" : millis(ms);
}

/** The two largest units of a duration in seconds. */
export function age(seconds: number): string {
  const whole = Math.floor(seconds);
  const units: [number, string][] = [[86_400, "d"], [3_600, "h"], [60, "m"], [1, "s"]];
  const first = units.findIndex(([size]) => whole >= size);
  if (first < 0) return "0s";
  const parts = units.slice(first, first + 2).map(([size, unit], place) => {
    const above = place === 0 ? Infinity : units[first]![0];
    return [Math.floor((whole % above) / size), unit] as const;
  });
  return parts.filter(([n], place) => place === 0 || n > 0).map(([n, unit]) => `${n}${unit}`).join(" ");
}
