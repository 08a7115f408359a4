// The status of the cluster as the server returns it: its type, its request, and the interval of
// requests. While the server does not respond, the interval grows.

import type { ClusterStatus, NodeRow, ReportedDetails } from "../api";
import { ask, Unanswered } from "../ask";

export type { BusyRoom, ClusterStatus as Status, RollCallSeries as RollCalls } from "../api";

/** A node. The fields of its report are missing if it has not responded. */
export type NodeStatus = NodeRow & Partial<ReportedDetails>;

const PERIOD_MS = 2_000;
const LONGEST_PERIOD_MS = 16_000;

/** Whether the node has responded. */
export function hasSaid(node: NodeStatus): node is NodeRow & ReportedDetails {
  return node.error === null;
}

/**
 * Requests the status periodically, except while the tab is hidden. `fail` gets the delay of the
 * next attempt in milliseconds.
 */
export function keepAsking(show: (status: ClusterStatus) => void, fail: (why: Unanswered, again: number) => void): void {
  let timer = 0;
  let asking = false;
  let period = PERIOD_MS;

  const now = async (): Promise<void> => {
    window.clearTimeout(timer);
    if (asking || document.hidden) return;
    asking = true;
    try {
      const status = await ask<ClusterStatus>("/_/status", "a status", ({ nodes, busiest_rooms, roll_calls }) =>
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
