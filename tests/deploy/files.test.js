// The values that several files of `deploy/` repeat, and that must be consistent.

import assert from "node:assert/strict";
import { access, cp, mkdtemp, readFile, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
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
/** The longest deadline of a roll call. */
const MAX_DEADLINE = 5;

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
  assert.ok(seconds(node.stop_grace_period) > seconds(/^ROLLCALL_DRAIN=(.*)$/m.exec(await read("node.env"))[1]));

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
    assert.ok(timeout("client") > POLL, name);
    assert.ok(timeout("server") > MAX_DEADLINE, name);
    const [, polls] = /^ +http-request set-timeout server (\S+) if \{ path_beg \/socket.io\/ \}$/m.exec(text);
    assert.ok(seconds(polls) > POLL, name);
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

/** The files and folders of the repository that containers see. */
async function mounted() {
  const { services, configs, secrets } = await compose();
  const sources = [...Object.values(configs), ...Object.values(secrets)].map(({ file }) => file);
  for (const { volumes = [] } of Object.values(services)) {
    sources.push(...volumes.map((volume) => volume.split(":")[0]).filter((source) => source.startsWith("./")));
  }
  assert.ok(sources.length > 8, sources.join(" "));
  return sources;
}

test("all mounted files exist", async () => {
  for (const source of await mounted()) {
    if (!source.startsWith("./secrets/")) await access(join(DEPLOY, source));
  }
});

test("containers can read all mounted files of a private clone", async () => {
  const folder = await mkdtemp(join(tmpdir(), "rollcall-deploy-"));
  try {
    await cp(DEPLOY, folder, { recursive: true, filter: (path) => !/\/(secrets|rollcall\.env)$/.test(path) });
    const hidden = await run({ path: "chmod", hint: "it is in coreutils" }, ["-R", "go-rwx", folder]);
    assert.equal(hidden.code, 0, hidden.stderr);
    const made = await run({ path: join(folder, "setup"), hint: "it is in the repository" }, ["query"]);
    assert.equal(made.code, 0, made.stderr);
    for (const source of await mounted()) {
      const path = join(folder, source);
      const files = (await stat(path)).isDirectory() ? await readdir(path, { recursive: true }) : [""];
      for (const file of files) {
        const { mode } = await stat(join(path, file));
        assert.equal(mode & 0o004, 0o004, join(source, file));
      }
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
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
