// The roll as the server gives it: its shape, how it is asked for, and how often.
// Asking never overlaps with itself, and rests while the tab is hidden.

import { encodeName } from "./names";
import { myToken } from "./token";

export interface User {
  id_socket: string;
  id_user: string;
  node: string;
}

export interface NodeAnswer {
  id: string;
  name: string;
  vouched: number;
  unchanged: boolean;
  error: string | null;
  took_ms: number;
}

export interface Roll {
  room: string;
  complete: boolean;
  as_of: string;
  took_ms: number;
  source: string;
  nodes: NodeAnswer[];
  unresolved: number | null;
  users: User[];
}

const PERIOD_MS = 1000;
const PATIENCE_MS = 10_000;

/** Asks for the roll once. Rejects with an Error whose message can be shown as it is. */
export async function askRoll(room: string): Promise<Roll> {
  const headers: Record<string, string> = { accept: "application/json" };
  const token = myToken();
  if (token !== null) headers.authorization = `Bearer ${token}`;
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(`/${encodeName(room)}/rollcall`, {
      cache: "no-store",
      headers,
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    body = await response.json();
  } catch (cause) {
    throw new Error(faultOf(cause));
  }
  if (!response.ok) throw new Error(problemOf(body, response.status));
  const roll = body as Roll;
  if (!Array.isArray(roll.users) || !Array.isArray(roll.nodes)) {
    throw new Error("The server answered with something that is not a roll.");
  }
  return roll;
}

function faultOf(cause: unknown): string {
  if (cause instanceof SyntaxError) return "The server answered with something that is not a roll.";
  if (cause instanceof DOMException && cause.name === "TimeoutError") {
    return "The server took too long to answer.";
  }
  return "The server cannot be reached.";
}

function problemOf(body: unknown, status: number): string {
  const { title, detail } = (body ?? {}) as { title?: unknown; detail?: unknown };
  const said = [title, detail].filter((part) => typeof part === "string" && part !== "");
  return said.length > 0 ? said.join(": ") : `The server answered with status ${status}.`;
}

/** Calls `ask` once a second; gives back a function that asks at once. `ask` must not reject. */
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
