// The roll as the server returns it: its type, its request, and the interval of requests. Requests
// never overlap, and pause while the tab is hidden.

import type { RollCall as Roll } from "./api";
import { ask } from "./ask";
import { encodeName } from "./names";

export type { LocatedSocket as User, Node as NodeAnswer, RollCall as Roll } from "./api";

const PERIOD_MS = 1000;

/** Requests the roll once. Rejects with an Error whose message can be displayed. */
export function askRoll(room: string): Promise<Roll> {
  return askRollAt(`/${encodeName(room)}/rollcall`);
}

/** The same request on the admin port. */
export function askRollForOperators(room: string): Promise<Roll> {
  return askRollAt(`/_/rooms/${encodeName(room)}`);
}

function askRollAt(path: string): Promise<Roll> {
  return ask<Roll>(path, "a roll", ({ users, nodes }) => Array.isArray(users) && Array.isArray(nodes));
}

/** Calls `ask` once per second. Returns a function that calls it at once. `ask` must not reject. */
export function everySecond(ask: () => Promise<void>): () => void {
  let timer = 0;
  let asking = false;
  let askAgain = false;

  const now = (): void => {
    window.clearTimeout(timer);
    if (asking) {
      askAgain = true;
      return;
    }
    if (document.hidden) return;
    asking = true;
    const started = performance.now();
    void ask().then(() => {
      asking = false;
      const rest = askAgain ? 0 : PERIOD_MS - (performance.now() - started);
      askAgain = false;
      timer = window.setTimeout(now, Math.max(0, rest));
    });
  };

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) now();
  });
  now();
  return now;
}
