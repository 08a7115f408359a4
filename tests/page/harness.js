// The harness of the page tests: one `rollcall dev` per test file, and a headless Chromium that
// collects the errors of its pages. It also has requests that accept the self-signed certificate,
// and a wait with a limit.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { setTimeout as pause } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const BINARY = process.env.ROLLCALL_BIN ?? fileURLToPath(new URL("../../target/debug/rollcall", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const CHROMIUM_ARGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--no-first-run",
  "--disable-quic",
];

/** The limit of every wait on a page. */
const TIMEOUT_MS = 10_000;
const POLL_INTERVAL_MS = 25;

/** Runs `check` until it does not throw any more. After the limit, throws its last error. */
export async function eventually(check, within = TIMEOUT_MS) {
  const end = performance.now() + within;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() >= end) throw error;
    }
    await pause(POLL_INTERVAL_MS);
  }
}

/** A `rollcall dev` process on a free port. */
export class Cluster {
  #process;
  #exit;
  #log = "";

  /** The origin of the page, from the output of the process. */
  origin;
  /** The names of the nodes, from the output of the process. */
  nodes;

  static async start(...args) {
    assert.ok(existsSync(BINARY), `${BINARY} is missing: build it, or set ROLLCALL_BIN`);
    const cluster = new Cluster(args);
    try {
      await cluster.#ready();
    } catch (error) {
      await cluster.stop();
      throw error;
    }
    return cluster;
  }

  constructor(args) {
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("ROLLCALL_")));
    this.#process = spawn(BINARY, ["dev", "--listen", "localhost:0", ...args], {
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.#exit = once(this.#process, "exit");
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => (this.#log += text));
    }
  }

  async #ready() {
    await eventually(() => {
      assert.equal(this.#process.exitCode, null, `rollcall dev ended early:\n${this.#log}`);
      assert.match(this.#log, /^ {2}stop /m, "rollcall dev has not printed that it is ready");
    });
    this.origin = /^ {2}open +(https?:\/\/localhost:\d+)\//m.exec(this.#log)[1];
    this.nodes = [...this.#log.matchAll(/(\S+) on 127\.0\.0\.1:\d+$/gm)].map(([, name]) => name);
    const script = await get(`${this.origin}/_/assets/room.js`);
    assert.equal(script.status, 200, "the binary contains no page: run `npm run build` in web/, then build it again");
  }

  /** Sends SIGINT. Returns how the process ended, and how long that took. */
  async interrupt() {
    const started = performance.now();
    this.#process.kill("SIGINT");
    const [code, signal] = await this.#exit;
    return { code, signal, took: performance.now() - started };
  }

  /** Ends the process, with SIGKILL if SIGINT is not enough. */
  async stop() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const force = setTimeout(() => this.#process.kill("SIGKILL"), TIMEOUT_MS);
    await this.interrupt();
    clearTimeout(force);
  }
}

/** A Chromium that collects the errors of its pages. */
export class Browser {
  #chromium;
  #errors = [];

  static async launch() {
    assert.ok(existsSync(CHROMIUM), `${CHROMIUM} is missing: install Chromium, or set CHROMIUM`);
    return new Browser(await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGS }));
  }

  constructor(launched) {
    this.#chromium = launched;
  }

  /** Opens an address in a new browser context. */
  async visit(address, options = {}) {
    const context = await this.#chromium.newContext({ ignoreHTTPSErrors: true, ...options });
    context.setDefaultTimeout(TIMEOUT_MS);
    context.on("console", (message) => {
      if (message.type() === "error") this.#errors.push(message.text());
    });
    context.on("weberror", (error) => this.#errors.push(String(error.error())));
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
        console.error(`policy violation: ${violatedDirective} ${blockedURI}`);
      });
    });
    const page = await context.newPage();
    await page.goto(address);
    return page;
  }

  /** Returns and clears the console errors, uncaught errors and policy violations of all pages. */
  takeErrors() {
    return this.#errors.splice(0);
  }

  /** Closes all browser contexts. */
  async clear() {
    await Promise.all(this.#chromium.contexts().map((context) => context.close()));
  }

  async close() {
    await this.#chromium.close();
  }
}

/** The content of a room page at one moment. */
export function shownOn(page) {
  return page.evaluate(() => {
    const hook = (name) => document.querySelector(`[data-testid="${name}"]`);
    const rows = hook("roll").querySelectorAll("tr[data-socket]");
    return {
      state: hook("state").textContent,
      socket: hook("my-socket").textContent,
      node: hook("my-node").textContent,
      count: hook("count").textContent,
      complete: hook("completeness").dataset.complete,
      rows: Array.from(rows, (row) => ({
        socket: row.dataset.socket,
        user: row.dataset.user,
        you: "you" in row.dataset,
        text: row.querySelector(".user .name").textContent,
        node: row.querySelector(".node .name").textContent,
      })),
    };
  });
}

/** Waits until a room page is connected and its own socket is in the roll. Returns its content. */
export function arrived(page) {
  return eventually(async () => {
    const shown = await shownOn(page);
    assert.equal(shown.state, "connected");
    assert.ok(shown.rows.some((row) => row.you), "the page's own socket is not in the roll");
    return shown;
  });
}

/** A GET request from outside the browser. */
export async function get(address) {
  const { request } = address.startsWith("https:") ? https : http;
  const sent = request(address, { agent: false, rejectUnauthorized: false });
  sent.end();
  const [response] = await once(sent, "response");
  let body = "";
  for await (const text of response.setEncoding("utf8")) body += text;
  return { status: response.statusCode, headers: response.headers, body };
}

/** The users of the room, from the REST API. */
export async function usersOf(origin, room) {
  const { status, headers, body } = await get(`${origin}/${encodeURIComponent(room)}/users`);
  assert.equal(status, 200, body);
  assert.equal(headers["rollcall-complete"], "true");
  return JSON.parse(body);
}
