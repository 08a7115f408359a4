// The values that several files of `deploy/` repeat, and that must be consistent.

import assert from "node:assert/strict";
import { access, readFile, readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { test } from "node:test";

import { parse, parseAllDocuments } from "yaml";

import { programs, run } from "../clients/cluster.js";

const DEPLOY = resolve(import.meta.dirname, "../../deploy");
/** Variables of the compose file, not of a node. */
const COMPOSE = new Set(["ROLLCALL_PUBLISH", "ROLLCALL_IMAGE", "ROLLCALL_CPUS", "ROLLCALL_MEMORY", "ROLLCALL_EDGE_SUBNET"]);
/** The maximum silence of a WebSocket by default: ping interval plus ping timeout. */
const MAX_SILENCE = 25 + 20;
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

test("stop timeouts are longer than the drain", async () => {
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

test("balancer timeouts are longer than those of the nodes", async () => {
  for (const name of ["haproxy.cfg", "systemd/haproxy.cfg"]) {
    const text = await read(name);
    const timeout = (of) => seconds(new RegExp(`^ +timeout ${of} (.*)$`, "m").exec(text)[1]);
    assert.ok(timeout("tunnel") > MAX_SILENCE, name);
    for (const side of ["client", "server"]) assert.ok(timeout(side) > POLL, name);
  }
});

test("each container is isolated and has limits", async () => {
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
      const isolated = { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } };
      assert.deepEqual(securityContext, isolated);
      assert.ok(resources.limits.memory);
    }
  }
});

test("all mounted files exist", async () => {
  const { services, configs } = await compose();
  const mounted = Object.values(configs).map(({ file }) => file);
  for (const { volumes = [] } of Object.values(services)) {
    mounted.push(...volumes.map((volume) => volume.split(":")[0]).filter((source) => source.startsWith("./")));
  }
  assert.ok(mounted.length > 4, mounted.join(" "));
  for (const source of mounted) await access(join(DEPLOY, source));
});

test("all files use the same Redis version", async () => {
  const { redis } = (await compose()).services;
  const [{ spec }] = await manifests("redis/redis.yaml");
  assert.equal(redis.image, `\${REDIS_IMAGE:-${spec.template.spec.containers[0].image}}`);
  assert.deepEqual(redis.command, spec.template.spec.containers[0].args);
});

test("every variable in the files is known to a node", async () => {
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
