// What the files of `deploy/` say in several places, and have to say alike.

import assert from "node:assert/strict";
import { access, readFile, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { test } from "node:test";

import { parse, parseAllDocuments } from "yaml";

import { programs, run } from "../clients/cluster.js";

const DEPLOY = resolve(import.meta.dirname, "../../deploy");
/** Of Compose itself, and not of a node. */
const COMPOSE = new Set(["ROLLCALL_PUBLISH", "ROLLCALL_IMAGE", "ROLLCALL_CPUS", "ROLLCALL_MEMORY", "ROLLCALL_EDGE_SUBNET"]);
/** How long a WebSocket may be silent, unless a node is told otherwise: its ping interval and timeout. */
const SILENT = 25 + 20;
const POLL = 25;

async function read(name) {
  return readFile(join(DEPLOY, name), "utf8");
}

async function compose() {
  return parse(await read("docker-compose.yml"), { merge: true });
}

async function manifests(name) {
  return parseAllDocuments(await read(`kubernetes/${name}`)).map((document) => document.toJS());
}

function seconds(text) {
  const [, number] = /^(\d+)s?$/.exec(text) ?? assert.fail(`not in seconds: ${text}`);
  return Number(number);
}

test("whoever stops a node waits for longer than its drain", async () => {
  const { node } = (await compose()).services;
  assert.ok(seconds(node.stop_grace_period) > seconds(node.environment.ROLLCALL_DRAIN));

  const [{ spec }] = await manifests("base/nodes.yaml");
  const [container] = spec.template.spec.containers;
  const drain = seconds(container.env.find(({ name }) => name === "ROLLCALL_DRAIN").value);
  const before = container.lifecycle.preStop.sleep.seconds;
  assert.ok(spec.template.spec.terminationGracePeriodSeconds > before + drain);

  const unit = await read("systemd/rollcall@.service");
  assert.ok(seconds(/^TimeoutStopSec=(.*)$/m.exec(unit)[1]) > seconds(/--drain (\S+)/.exec(unit)[1]));
});

test("balancers bear with what is silent for as long as nodes do", async () => {
  for (const name of ["haproxy.cfg", "systemd/haproxy.cfg"]) {
    const text = await read(name);
    const timeout = (of) => seconds(new RegExp(`^ +timeout ${of} (.*)$`, "m").exec(text)[1]);
    assert.ok(timeout("tunnel") > SILENT, name);
    for (const side of ["client", "server"]) assert.ok(timeout(side) > POLL, name);
  }
});

test("each container is shut in, and limited", async () => {
  for (const [name, service] of Object.entries((await compose()).services)) {
    assert.equal(service.read_only, true, name);
    assert.deepEqual(service.cap_drop, ["ALL"], name);
    assert.deepEqual(service.security_opt, ["no-new-privileges:true"], name);
    assert.ok(service.deploy.resources.limits.memory && service.deploy.resources.limits.cpus, name);
    for (const port of service.ports ?? []) assert.match(port, /^(\$\{ROLLCALL_PUBLISH:-)?127\.0\.0\.1:/, name);
  }
  for (const { kind, spec } of [...(await manifests("base/nodes.yaml")), ...(await manifests("redis/redis.yaml"))]) {
    if (kind !== "Deployment") continue;
    const { automountServiceAccountToken, securityContext, containers } = spec.template.spec;
    assert.equal(automountServiceAccountToken, false);
    assert.equal(securityContext.runAsNonRoot, true);
    for (const { securityContext, resources } of containers) {
      const shut = { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } };
      assert.deepEqual(securityContext, shut);
      assert.ok(resources.limits.memory);
    }
  }
});

test("what is mounted is there", async () => {
  const { services, configs } = await compose();
  const mounted = Object.values(configs).map(({ file }) => file);
  for (const { volumes = [] } of Object.values(services)) {
    mounted.push(...volumes.map((volume) => volume.split(":")[0]).filter((source) => source.startsWith("./")));
  }
  assert.ok(mounted.length > 4, mounted.join(" "));
  for (const source of mounted) await access(join(DEPLOY, source));
});

test("the same Redis everywhere", async () => {
  const { redis } = (await compose()).services;
  const [{ spec }] = await manifests("redis/redis.yaml");
  assert.equal(redis.image, `\${REDIS_IMAGE:-${spec.template.spec.containers[0].image}}`);
  assert.deepEqual(redis.command, spec.template.spec.containers[0].args);
});

test("a node knows each variable that is set for it", async () => {
  const { stdout } = await run(programs.rollcall, ["serve", "--help"]);
  const known = new Set([...stdout.matchAll(/\[env: (\w+)/g)].map(([, name]) => name));
  assert.ok(known.size > 10, stdout);
  const names = (await readdir(DEPLOY, { recursive: true })).filter((name) => /\.(yml|yaml|service|conf|env|md|cfg)$|Dockerfile|setup$/.test(name));
  assert.ok(names.includes("kubernetes/base/nodes.yaml"), names.join(" "));
  for (const name of names) {
    for (const [variable] of (await read(name)).matchAll(/\bROLLCALL_\w+/g)) {
      assert.ok(known.has(variable) || COMPOSE.has(variable), `${variable} in ${name}`);
    }
  }
});
