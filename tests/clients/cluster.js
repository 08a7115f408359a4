// The harness of the client tests: a real Redis, real Rollcall processes on loopback ports, and requests to them. No
// test sleeps for a result: `until` polls with a limit. Every process is stopped by its own pid.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import http from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** In milliseconds. Long enough for a busy machine. */
export const TIMEOUT = 20_000;

const POLL_INTERVAL = 20;
const REDIS_ATTEMPTS = 10;
const target = resolve(import.meta.dirname, "../../target");
const tools = resolve(process.env.ROLLCALL_TOOLS ?? join(target, "tools"));

/** The programs that the tests need, and a remedy for each missing one. */
export const programs = {
  rollcall: {
    path: resolve(process.env.ROLLCALL_BIN ?? join(target, "debug/rollcall")),
    hint: "build it with `cargo build`, or name it in ROLLCALL_BIN",
  },
  grpcurl: { path: join(tools, "bin/grpcurl"), hint: "install it there, or name another folder in ROLLCALL_TOOLS" },
  python: {
    path: join(tools, "python/bin/python"),
    hint: "make a venv with python-socketio there, or name another folder in ROLLCALL_TOOLS",
  },
  redisServer: { path: "redis-server", hint: "install Redis" },
  redisCli: { path: "redis-cli", hint: "install Redis" },
};

const running = new Set();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** A child process, its output, and its exit code. */
export class Process {
  constructor(program, args, env = {}) {
    this.child = spawn(program.path, args, { env: { ...cleanEnvironment(), ...env } });
    this.stdout = "";
    this.stderr = "";
    this.child.stdout.setEncoding("utf8").on("data", (text) => (this.stdout += text));
    this.child.stderr.setEncoding("utf8").on("data", (text) => (this.stderr += text));
    this.ended = false;
    running.add(this.child);
    /** The exit code, or the name of the signal that ended it. */
    this.code = new Promise((done, fail) => {
      this.child.once("error", (error) => {
        const missing = error.code === "ENOENT" ? `${program.path} is missing: ${program.hint}` : error.message;
        fail(new Error(missing));
      });
      this.child.once("close", (code, signal) => done(code ?? signal));
    }).finally(() => {
      this.ended = true;
      running.delete(this.child);
    });
    this.code.catch(() => {});
  }

  /** Waits until `ready` returns a truthy value, and returns it. Fails as soon as the process has ended. */
  async becomes(ready, what) {
    return until(async () => {
      if (this.ended) throw new Error(`ended (${await this.code}) before it was ${what}:\n${this.stdout}${this.stderr}`);
      return ready();
    }, what);
  }

  /** Sends SIGTERM. Returns the exit code. */
  async stop() {
    if (!this.ended) this.child.kill("SIGTERM");
    return within(this.code, `the process ends:\n${this.stderr}`);
  }
}

/** Runs a program to its end. */
export async function run(program, args, env) {
  const process = new Process(program, args, env);
  try {
    const code = await within(process.code, `${program.path} ${args.join(" ")} ends`);
    return { code, stdout: process.stdout, stderr: process.stderr };
  } finally {
    process.child.kill("SIGKILL");
  }
}

/** A redis-server without persistence. */
export class Redis {
  /** On a free port by default. */
  static async start(port) {
    for (let attempt = 1; ; attempt++) {
      const redis = new Redis(port ?? (await freePort()), await mkdtemp(join(tmpdir(), "rollcall-redis-")));
      try {
        await redis.process.becomes(() => redis.process.stdout.includes("Ready to accept connections"), "ready");
        return redis;
      } catch (error) {
        await redis.stop();
        if (port !== undefined || attempt === REDIS_ATTEMPTS) throw error;
      }
    }
  }

  constructor(port, folder) {
    this.port = port;
    this.folder = folder;
    this.url = `redis://127.0.0.1:${port}`;
    const args = ["--port", `${port}`, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder];
    this.process = new Process(programs.redisServer, args);
  }

  /** The output of redis-cli, by line. */
  async cli(...args) {
    const { code, stdout, stderr } = await run(programs.redisCli, ["-p", `${this.port}`, ...args]);
    assert.equal(code, 0, stderr);
    return stdout.split("\n").filter((line) => line !== "");
  }

  async stop() {
    try {
      await this.process.stop();
    } finally {
      await rm(this.folder, { recursive: true, force: true });
    }
  }
}

/** One `rollcall serve`. Its addresses are `listen`, `mesh` and `admin`, each `host:port`. */
export class Node {
  /** Starts a node, and waits until it listens. `ready` waits until it is ready. */
  static async launch({ name, redis, listen = "127.0.0.1:0", identity = ["--identity", "query"], more = [], env = {} }) {
    const node = new Node();
    node.name = name;
    const args = ["serve", "--log", "info", "--node-name", name, ...identity, "--listen", listen];
    args.push("--mesh-listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--mesh-open");
    if (redis !== undefined) args.push("--redis", redis);
    args.push(...more);
    node.process = new Process(programs.rollcall, args, env);
    const starting = await node.process.becomes(() => /^.* starting .*\n/m.exec(node.process.stderr)?.[0], "starting");
    for (const port of ["listen", "mesh", "admin"]) node[port] = new RegExp(` ${port}=(\\S+)`).exec(starting)[1];
    return node;
  }

  static async start(options) {
    const node = await Node.launch(options);
    await node.ready();
    return node;
  }

  async ready() {
    const isReady = async () => (await get(this.admin, "/readyz")).status === 200;
    await this.process.becomes(isReady, "ready");
  }

  /** Sends SIGTERM. Returns the exit code. */
  async stop() {
    return this.process.stop();
  }
}

/** Four nodes that share a Redis. */
export class Cluster {
  /** `more`: further arguments of each node. */
  static async start({ more = [] } = {}) {
    const cluster = new Cluster();
    cluster.more = more;
    cluster.redis = await Redis.start();
    cluster.nodes = [];
    try {
      const names = ["north", "east", "south", "west"];
      cluster.nodes = await Promise.all(names.map((name) => Node.start({ name, redis: cluster.redis.url, more })));
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  /** Replaces a stopped node by a new process at the same public address. */
  async restart(node) {
    const next = await Node.start({ name: node.name, redis: this.redis.url, listen: node.listen, more: this.more });
    this.nodes[this.nodes.indexOf(node)] = next;
    return next;
  }

  /** Stops the nodes, then Redis. Returns the exit codes of the nodes. */
  async stop() {
    const codes = await this.stopNodes();
    await this.redis.stop();
    return codes;
  }

  async stopNodes() {
    return Promise.all(this.nodes.map((node) => node.stop()));
  }

  /** Asserts that the next complete roll call on every node has exactly these rows. */
  async assertListed(room, ...rows) {
    for (const node of this.nodes) {
      assert.deepEqual(await users(node, room), byId(rows), `${room} on ${node.name}`);
    }
  }

  /** Waits until every node lists exactly these rows. */
  async untilListed(room, ...rows) {
    const expected = JSON.stringify(byId(rows));
    for (const node of this.nodes) {
      const isListed = async () => JSON.stringify(await users(node, room)) === expected;
      await until(isListed, `${node.name} lists ${expected} in ${room}`);
    }
  }
}

/** The users of the room, sorted by socket: the first complete answer of a node. */
export async function users(node, room) {
  const path = `/${encodeURIComponent(room)}/users`;
  const rows = await until(async () => {
    const { status, headers, body } = await get(node.listen, path);
    assert.equal(status, 200, body);
    return headers["rollcall-complete"] === "true" && JSON.parse(body);
  }, `a complete answer to ${path} of ${node.name}`);
  return byId(rows);
}

/** The first complete full answer of a node. */
export async function rollcall(node, room) {
  const path = `/${encodeURIComponent(room)}/rollcall`;
  return until(async () => {
    const { status, body } = await get(node.listen, path);
    assert.equal(status, 200, body);
    const answer = JSON.parse(body);
    return answer.complete && answer;
  }, `a complete answer to ${path} of ${node.name}`);
}

/** A GET request over a new connection. */
export function get(address, path) {
  const asked = new Promise((done, fail) => {
    const request = http.get(`http://${address}${path}`, { agent: false }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text) => (body += text));
      response.on("end", () => done({ status: response.statusCode, headers: response.headers, body }));
      response.on("error", fail);
    });
    request.on("error", fail);
  });
  return within(asked, `${address} answers ${path}`);
}

/** Waits until `predicate` returns a truthy value, and returns it. */
export async function until(predicate, what) {
  const began = Date.now();
  for (;;) {
    const answer = await predicate();
    if (answer) return answer;
    assert.ok(Date.now() - began < TIMEOUT, `timed out waiting until ${what}`);
    await sleep(POLL_INTERVAL);
  }
}

/** Waits for the promise, with a time limit. */
export async function within(promise, what) {
  const abort = new AbortController();
  const bound = sleep(TIMEOUT, undefined, { signal: abort.signal }).then(
    () => assert.fail(`timed out waiting until ${what}`),
    () => {},
  );
  try {
    return await Promise.race([promise, bound]);
  } finally {
    abort.abort();
  }
}

/** A port that was free a moment ago. */
export async function freePort() {
  const server = net.createServer();
  await new Promise((done, fail) => server.once("error", fail).listen(0, "127.0.0.1", done));
  const { port } = server.address();
  await new Promise((done) => server.close(done));
  return port;
}

function byId(rows) {
  return rows.toSorted((one, next) => (one.id_socket < next.id_socket ? -1 : 1));
}

/** The environment of the tests without any configuration of Rollcall. */
function cleanEnvironment() {
  const kept = Object.entries(process.env).filter(([key]) => !key.startsWith("ROLLCALL_"));
  return { ...Object.fromEntries(kept), NO_COLOR: "1" };
}
