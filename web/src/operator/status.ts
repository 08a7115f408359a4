// The status of the cluster as the server returns it: its type, its request, and the interval of
// requests. While the server does not respond, the interval grows.

import { ask, Unanswered } from "../ask";

export interface Minute {
  per_second: number;
  incomplete: number;
  p50_ms: number | null;
  p99_ms: number | null;
}

/** One number for each bucket of time, the earliest first. */
export interface RollCalls {
  bucket_ms: number;
  until_ms: number;
  calls: number[];
  incomplete: number[];
  p50_ms: (number | null)[];
  p99_ms: (number | null)[];
  last_minute: Minute;
}

/** The report of a node about itself. */
export interface Said {
  version: string;
  since: string;
  uptime_ms: number;
  sockets: number;
  rooms: number;
  counts: boolean;
  whole: boolean;
  draining: boolean;
  lease_left_ms: number | null;
  roll_calls: RollCalls;
}

/** A node. The fields of its report are missing if it has not responded. */
export interface NodeStatus extends Partial<Said> {
  id: string;
  name: string;
  mesh: string;
  error: string | null;
  round_trip_ms: number;
  circuit_open: boolean;
  leased: boolean;
  heard_ms: number | null;
}

export interface BusyRoom {
  room: string;
  sockets: number;
  most: number;
  nodes: number;
}

export interface Status {
  well: boolean;
  as_of: string;
  took_ms: number;
  asked: string;
  directory: string;
  sockets: number;
  nodes: NodeStatus[];
  busiest_rooms: BusyRoom[];
  roll_calls: RollCalls;
}

const PERIOD_MS = 2_000;
const LONGEST_PERIOD_MS = 16_000;

/** Whether the node has responded. */
export function hasSaid(node: NodeStatus): node is NodeStatus & Said {
  return node.error === null;
}

/**
 * Requests the status periodically, except while the tab is hidden. `fail` gets the delay of the
 * next attempt in milliseconds.
 */
export function keepAsking(show: (status: Status) => void, fail: (why: Unanswered, again: number) => void): void {
  let timer = 0;
  let asking = false;
  let period = PERIOD_MS;

  const now = async (): Promise<void> => {
    window.clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    try {
      const status = await ask<Status>("/_/status", "a status", ({ nodes, busiest_rooms, roll_calls }) =>
        Array.isArray(nodes) && Array.isArray(busiest_rooms) && typeof roll_calls === "object",
      );
      period = PERIOD_MS;
      show(status);
    } catch (error) {
      period = Math.min(period * 2, LONGEST_PERIOD_MS);
      fail(error instanceof Unanswered ? error : new Unanswered(String(error), 0), period);
    }
    asking = false;
    timer = window.setTimeout(() => void now(), period);
  };

  document.addEventListener("visibilitychange", () => {
    period = PERIOD_MS;
    void now();
  });
  void now();
}
