// The services of `deploy/docker-compose.yml`, started as plain processes with their own commands, environment, secrets
// and configuration files. Only the parts of a container engine are replaced. Each container has its own loopback
// address, so that all ports stay the same. Mounted files keep their paths in a copy of the folder. The name of a
// service resolves to the addresses of its containers.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { appendFile, cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

import { parse } from "yaml";

import { Process, get, programs, run, within } from "../clients/cluster.js";
import { NameServer } from "./names.js";
import { haproxy } from "./programs.js";

const SOURCE = resolve(import.meta.dirname, "../../deploy");
/** The files that `deploy/setup` creates, which are not copied. */
const MADE = /\/(secrets|rollcall\.env)(\/|$)/;
/** The programs of the images, and their paths on this machine. */
const PROGRAMS = {
  "/usr/bin/rollcall": programs.rollcall,
  "redis-server": programs.redisServer,
  "redis-cli": programs.redisCli,
  haproxy,
};

export class Deployment {
  /** `identity`: the argument of `deploy/setup`. `settings`: further lines of rollcall.env. */
  static async prepare({ identity, settings = [] }) {
    const deployment = new Deployment();
    deployment.folder = await mkdtemp(join(tmpdir(), "rollcall-deploy-"));
    await cp(SOURCE, deployment.folder, { recursive: true, filter: (path) => !MADE.test(path.slice(SOURCE.length)) });
    deployment.setUp = await run({ path: deployment.file("setup"), hint: "it is in the repository" }, [identity]);
    assert.equal(deployment.setUp.code, 0, deployment.setUp.stderr);
    await appendFile(deployment.file("rollcall.env"), `${settings.join("\n")}\n`);
    deployment.compose = parse(defaults(await deployment.read("docker-compose.yml")), { merge: true });
    deployment.image = image(await deployment.read("Dockerfile"));
    deployment.addresses = `127.${randomInt(64, 255)}.${randomInt(1, 255)}`;
    deployment.containers = [];
    deployment.names = await NameServer.start("node", () => deployment.of("node").map(({ address }) => address));
    return deployment;
  }

  /** Starts Redis, the nodes and the balancer, in the order of `depends_on`. */
  async up() {
    const { node, redis } = this.compose.services;
    assert.deepEqual(node.depends_on, { redis: { condition: "service_healthy" } });
    assert.deepEqual(this.compose.services.balancer.depends_on, ["node"]);
    assert.equal(redis.depends_on, undefined);
    await (await this.start("redis")).becomesHealthy();
    for (let count = 0; count < node.deploy.replicas; count++) await this.start("node");
    await this.start("balancer");
    for (const container of this.containers) await container.becomesHealthy();
  }

  /** Starts one more container of a service. */
  async start(service) {
    const container = new Container(this, service, `${this.addresses}.${this.containers.length + 1}`);
    this.containers.push(container);
    await container.start();
    return container;
  }

  /** The running containers of a service. */
  of(service) {
    return this.containers.filter((container) => container.service === service && !container.process?.ended);
  }

  get balancer() {
    return `${this.of("balancer")[0].address}:5001`;
  }

  /** The number of nodes that the balancer considers up. */
  async nodesUp() {
    const { body } = await get(`${this.of("balancer")[0].address}:8404`, "/metrics");
    return body.match(/^haproxy_server_status\{proxy="nodes",server="node\d+",state="UP"\} 1$/gm)?.length ?? 0;
  }

  file(name) {
    return join(this.folder, name);
  }

  async read(name) {
    return readFile(this.file(name), "utf8");
  }

  /** The logs of all processes. */
  get logs() {
    return this.containers.map(({ process }) => process.stdout + process.stderr).join("");
  }

  async down() {
    for (const service of ["balancer", "node", "redis"]) {
      await Promise.all(this.of(service).map((container) => container.stop()));
    }
    await this.names.stop();
    await rm(this.folder, { recursive: true, force: true });
  }
}

class Container {
  constructor(deployment, service, address) {
    Object.assign(this, { deployment, service, address, spec: deployment.compose.services[service] });
    this.name = `${service}-${address.split(".").at(-1)}`;
  }

  async start() {
    const folder = this.deployment.file(this.name);
    await mkdir(folder);
    this.files = [];
    for (const secret of this.spec.secrets ?? []) {
      this.files.push([`/run/secrets/${secret}`, this.deployment.file(this.deployment.compose.secrets[secret].file)]);
    }
    for (const { source, target } of this.spec.configs ?? []) {
      const text = this.place(await this.deployment.read(this.deployment.compose.configs[source].file));
      await writeFile(join(folder, source), text);
      this.files.push([target, join(folder, source)]);
    }
    this.env = {};
    if (this.service === "node") {
      assert.equal(this.spec.environment, undefined, "it would override rollcall.env");
      const files = await Promise.all(this.spec.env_file.map((name) => this.deployment.read(name)));
      const lines = defaults(files.join("\n")).split("\n").filter((line) => /^\w+=/.test(line));
      const settings = Object.fromEntries(lines.map((line) => /^(\w+)=(.*)$/.exec(line).slice(1)));
      // Each container has its own host name; these processes share one.
      const given = { ROLLCALL_NODE_NAME: this.name, ...this.deployment.image.env, ...settings };
      for (const [key, value] of Object.entries(given)) this.env[key] = this.place(`${value}`);
    }
    const entrypoint = this.service === "node" ? this.deployment.image.entrypoint : [];
    const words = [...entrypoint, ...this.spec.command].map((word) => this.place(word));
    if (this.service === "redis") words.push("--bind", this.address, "--dir", folder);
    const [program, ...args] = words;
    this.process = new Process(PROGRAMS[program], args, this.env);
  }

  /** Replaces addresses and paths in a word of the compose file, or in the text of a file that it mounts. */
  place(text) {
    const redis = this.deployment.containers.find(({ service }) => service === "redis");
    const subnet = this.deployment.compose.networks.edge.ipam.config[0].subnet;
    let placed = text
      .replaceAll("0.0.0.0:", `${this.address}:`)
      .replaceAll("redis:6379", `${redis?.address}:6379`)
      .replaceAll(subnet, "127.0.0.1")
      .replaceAll("bind :", `bind ${this.address}:`)
      .replaceAll("parse-resolv-conf", `nameserver here ${this.deployment.names.address}`);
    for (const [target, source] of this.files) placed = placed.replaceAll(target, source);
    return placed;
  }

  /** Runs the health check of the container. */
  async healthy() {
    const [how, program, ...args] = this.spec.healthcheck.test;
    assert.equal(how, "CMD");
    if (program === "wget") {
      const { port, pathname } = new URL(args.at(-1));
      const answer = await get(`${this.address}:${port}`, pathname).catch(() => null);
      return answer?.status === 200;
    }
    const where = program === "redis-cli" ? ["-h", this.address] : [];
    return (await run(PROGRAMS[program], [...where, ...args], this.env)).code === 0;
  }

  async becomesHealthy() {
    await this.process.becomes(() => this.healthy(), `${this.name} is healthy`);
  }

  /**
   * Stops the container as an engine does: with the signal and the grace period of the service. Returns the exit code.
   */
  async stop() {
    const began = Date.now();
    this.process.child.kill(this.spec.stop_signal ?? "SIGTERM");
    const code = await within(this.process.code, `${this.name} ends`);
    const took = (Date.now() - began) / 1000;
    const given = Number.parseInt(this.spec.stop_grace_period ?? "10s", 10);
    assert.ok(took < given, `${this.name} took ${took} s to stop, and is killed after ${given} s`);
    return code;
  }

  /** Kills the process, as after a power failure. */
  async crash() {
    this.process.child.kill("SIGKILL");
    await within(this.process.code, `${this.name} ends`);
  }
}

/** Compose text with the defaults of its variables. */
function defaults(text) {
  const set = text.replaceAll(/\$\{\w+:-([^}]*)\}/g, "$1");
  assert.doesNotMatch(set, /\$\{/, "a variable without a default");
  return set;
}

/** The arguments that the entry point of the image adds to a command. */
function image(dockerfile) {
  const entrypoint = JSON.parse(/^ENTRYPOINT (.*)$/m.exec(dockerfile)[1]);
  const env = [...dockerfile.matchAll(/^ENV (\w+)=(.*)$/gm)].map(([, key, value]) => [key, value]);
  return { entrypoint, env: Object.fromEntries(env) };
}

