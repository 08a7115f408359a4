// What the page's tests stand on: a `rollcall dev` of their own, a headless Chromium whose
// pages are listened to for complaints, plain requests that accept the self-signed
// certificate, and a bounded wait for something to become true.

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

/** How long anything on a page may take. */
const PATIENCE_MS = 10_000;
const LOOK_EVERY_MS = 25;

/** Runs `check` until it no longer throws; past the bound, its last error is the failure. */
export async function eventually(check, within = PATIENCE_MS) {
  const end = performance.now() + within;
  for (;;) {
    try {
      return await check();
    } catch (error) {
      if (performance.now() >= end) throw error;
    }
    await pause(LOOK_EVERY_MS);
  }
}

/** `rollcall dev` in a process of its own, on a free port. */
export class Cluster {
  #process;
  #exit;
  #log = "";

  /** Where the page is, as the process itself says. */
  origin;
  /** The names of the nodes, as the process itself says. */
  nodes;

  static async start(...args) {
    assert.ok(existsSync(BINARY), `there is no ${BINARY}: build it, or name another one in ROLLCALL_BIN`);
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
      assert.match(this.#log, /^ {2}stop /m, "rollcall dev has not said that it is ready");
    });
    this.origin = /^ {2}open +(https?:\/\/localhost:\d+)\//m.exec(this.#log)[1];
    this.nodes = [...this.#log.matchAll(/(\S+) on 127\.0\.0\.1:\d+$/gm)].map(([, name]) => name);
    const script = await get(`${this.origin}/_/assets/room.js`);
    assert.equal(script.status, 200, "this binary has no page in it: `npm run build` in web/, then build it again");
  }

  /** Presses Ctrl-C. Gives back how the process ended and how long that took. */
  async interrupt() {
    const started = performance.now();
    this.#process.kill("SIGINT");
    const [code, signal] = await this.#exit;
    return { code, signal, took: performance.now() - started };
  }

  /** Ends the process, by force when Ctrl-C is not enough. */
  async stop() {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    const force = setTimeout(() => this.#process.kill("SIGKILL"), PATIENCE_MS);
    await this.interrupt();
    clearTimeout(force);
  }
}

/** A Chromium that gathers everything its pages complain about. */
export class Browser {
  #chromium;
  #complaints = [];

  static async launch() {
    assert.ok(existsSync(CHROMIUM), `there is no ${CHROMIUM}: install Chromium, or say in CHROMIUM where it is`);
    return new Browser(await chromium.launch({ executablePath: CHROMIUM, args: CHROMIUM_ARGS }));
  }

  constructor(launched) {
    this.#chromium = launched;
  }

  /** Opens an address as a visitor with nothing in common with the others. */
  async visit(address, options = {}) {
    const context = await this.#chromium.newContext({ ignoreHTTPSErrors: true, ...options });
    context.setDefaultTimeout(PATIENCE_MS);
    context.on("console", (message) => {
      if (message.type() === "error") this.#complaints.push(message.text());
    });
    context.on("weberror", (error) => this.#complaints.push(String(error.error())));
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
        console.error(`policy violation: ${violatedDirective} ${blockedURI}`);
      });
    });
    const page = await context.newPage();
    await page.goto(address);
    return page;
  }

  /** Console errors, uncaught errors and policy violations of every page, since the last time. */
  takeComplaints() {
    return this.#complaints.splice(0);
  }

  /** Sends every visitor away. */
  async clear() {
    await Promise.all(this.#chromium.contexts().map((context) => context.close()));
  }

  async close() {
    await this.#chromium.close();
  }
}

/** Everything a room page shows, at one moment. */
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

/** Waits until a room page is connected and its own socket is in the roll; gives back what it shows. */
export function arrived(page) {
  return eventually(async () => {
    const shown = await shownOn(page);
    assert.equal(shown.state, "connected");
    assert.ok(shown.rows.some((row) => row.you), "the page's own socket is not in the roll");
    return shown;
  });
}

/** GET from outside the browser. */
export async function get(address) {
  const { request } = address.startsWith("https:") ? https : http;
  const sent = request(address, { agent: false, rejectUnauthorized: false });
  sent.end();
  const [response] = await once(sent, "response");
  let body = "";
  for await (const text of response.setEncoding("utf8")) body += text;
  return { status: response.statusCode, headers: response.headers, body };
}

/** Who is in the room, as the REST answer has it. */
export async function usersOf(origin, room) {
  const { status, headers, body } = await get(`${origin}/${encodeURIComponent(room)}/users`);
  assert.equal(status, 200, body);
  assert.equal(headers["rollcall-complete"], "true");
  return JSON.parse(body);
}
