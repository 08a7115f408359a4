// One request to this server. Every failure becomes an Error whose message can be displayed.

import { myToken } from "./token";

const PATIENCE_MS = 10_000;

/** A failed request, with the status of the response; 0 without a response. */
export class Unanswered extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

/** Requests `path`. `isAnswer` recognises the expected type, and `what` names it in messages. */
export async function ask<T>(path: string, what: string, isAnswer: (body: Partial<T>) => boolean): Promise<T> {
  const headers: Record<string, string> = { accept: "application/json" };
  const token = myToken();
  if (token !== null) headers.authorization = `Bearer ${token}`;
  const senseless = `The server answered with something that is not ${what}.`;
  let response: Response;
  let body: unknown;
  try {
    response = await fetch(path, { cache: "no-store", headers, signal: AbortSignal.timeout(PATIENCE_MS) });
    body = await response.json();
  } catch (cause) {
    throw new Unanswered(cause instanceof SyntaxError ? senseless : faultOf(cause), 0);
  }
  if (!response.ok) throw new Unanswered(problemOf(body, response.status), response.status);
  if (typeof body !== "object" || body === null || !isAnswer(body as Partial<T>)) throw new Unanswered(senseless, 0);
  return body as T;
}

function faultOf(cause: unknown): string {
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
