// The cluster of `deploy/docker-compose.yml` behind its balancer: official clients, callers, and a node that stops,
// dies or starts. Each test continues with the state of the previous one.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { after, before, test } from "node:test";

import { io } from "socket.io-client-v4";

import { get, programs, run, until, within } from "../clients/cluster.js";
import { Deployment } from "./deployment.js";

const ROOM = "Maths";
const CLIENTS = 24;
/** Long-polling first, as clients do by default, and WebSocket only. */
const TRANSPORTS = [undefined, ["websocket"], ["polling"]];

let deployment;
let crowd = [];
before(async () => {
  deployment = await Deployment.prepare({ identity: "query" });
  await deployment.up();
});
after(async () => {
  for (const socket of crowd) socket.disconnect();
  await deployment?.down();
});

function connect(number) {
  const transports = TRANSPORTS[number % TRANSPORTS.length];
  const socket = io(`http://${deployment.balancer}`, {
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    query: { id_user: `user-${number}`, room: ROOM },
    ...(transports && { transports }),
  });
  socket.on("connect_error", () => {});
  return socket;
}

/** The users of the room by the next node of the balancer; null if the answer is incomplete. */
async function users() {
  const { status, headers, body } = await get(deployment.balancer, `/${ROOM}/users`);
  assert.equal(status, 200, body);
  return headers["rollcall-complete"] === "true" ? JSON.parse(body).map(({ id_user }) => id_user).sort() : null;
}

async function untilAllAreListed() {
  const expected = JSON.stringify(crowd.map((_, number) => `user-${number}`).sort());
  const are = async () => crowd.every(({ connected }) => connected) && JSON.stringify(await users()) === expected;
  await until(are, "all are connected, and in the room once");
}

async function untilNodesAreUp(count) {
  await until(async () => (await deployment.nodesUp()) === count, `the balancer uses ${count} nodes`);
}

/** Requests the roll continuously while `work` runs, on one connection and on new ones. Every answer must be right. */
async function whileRequesting(work) {
  let running = true;
  let answers = 0;
  const kept = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const ask = async (agent) => {
    while (running) {
      const status = await new Promise((tell, fail) => {
        const request = http.get(`http://${deployment.balancer}/${ROOM}/users`, { agent }, (response) => {
          response.resume().once("end", () => tell(response.statusCode)).once("error", fail);
        });
        request.once("error", fail);
      });
      assert.equal(status, 200);
      answers++;
    }
  };
  const requests = Promise.all([ask(kept), ask(kept), ask(false), ask(false)]);
  try {
    await Promise.race([work(), requests]);
  } finally {
    running = false;
    await requests;
    kept.destroy();
  }
  assert.ok(answers >= 10, `${answers} answers`);
}

test("all containers are healthy, and the balancer uses all nodes", async () => {
  assert.equal(deployment.of("node").length, 4);
  await untilNodesAreUp(4);
  for (const container of deployment.containers) assert.ok(await container.healthy(), container.name);
});

test("clients connect by every transport and are listed once", async () => {
  crowd = Array.from({ length: CLIENTS }, (_, number) => connect(number));
  await untilAllAreListed();
  const { body } = await get(deployment.balancer, `/${ROOM}/rollcall`);
  const { nodes } = JSON.parse(body);
  assert.equal(nodes.filter(({ vouched }) => vouched > 0).length, 4, body);
});

test("a stopped node causes no wrong answer, and its clients reconnect", async () => {
  const [leaving] = deployment.of("node");
  await whileRequesting(async () => {
    assert.equal(await leaving.stop(), 0, leaving.process.stderr);
    await untilNodesAreUp(3);
    await untilAllAreListed();
  });
});

test("the balancer finds a new node by name and uses it", async () => {
  await whileRequesting(async () => {
    const added = [await deployment.start("node"), await deployment.start("node")];
    for (const node of added) await node.becomesHealthy();
    await untilNodesAreUp(5);
  });
  const before = crowd.length;
  crowd.push(...Array.from({ length: CLIENTS }, (_, number) => connect(before + number)));
  await untilAllAreListed();
  const { nodes } = JSON.parse((await get(deployment.balancer, `/${ROOM}/rollcall`)).body);
  assert.equal(nodes.filter(({ vouched }) => vouched > 0).length, 5);
});

test("the balancer stops using a dead node, and clients reconnect", async () => {
  await deployment.of("node")[0].crash();
  await untilNodesAreUp(4);
  await untilAllAreListed();
});

test("the mesh and Redis refuse clients without a secret", async () => {
  const [node] = deployment.of("node");
  const method = "rollcall.v1.MeshService/LookupSockets";
  const question = ["-plaintext", "-d", JSON.stringify({ room: ROOM })];
  const mesh = `${node.address}:7001`;
  const refused = await run(programs.grpcurl, [...question, mesh, method]);
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /Unauthenticated/);
  const token = (await deployment.read("secrets/mesh_token")).trim();
  const answered = await run(programs.grpcurl, [...question, "-H", `authorization: Bearer ${token}`, mesh, method]);
  assert.equal(answered.code, 0, answered.stderr);

  const [redis] = deployment.of("redis");
  for (const command of [["SMEMBERS", "rollcall:nodes"], ["CONFIG", "GET", "*"], ["FLUSHALL"], ["ACL", "LIST"]]) {
    const { stdout, stderr } = await run(programs.redisCli, ["-h", redis.address, ...command]);
    assert.match(stdout + stderr, /NOPERM/, command.join(" "));
  }
});

test("the operator endpoints accept the generated token", async () => {
  const [node] = deployment.of("node");
  const admin = `${node.address}:9001`;
  assert.equal((await get(admin, "/_/log")).status, 401);
  const asked = ["log", "--admin", admin, "--token-file", deployment.file("secrets/admin_token")];
  for (const levels of [["debug"], ["info"], []]) {
    const { code, stdout, stderr } = await run(programs.rollcall, [...asked, ...levels]);
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `${levels[0] ?? "info"}\n`);
  }
});

test("commands in a container use its environment variables", async () => {
  const [node] = deployment.of("node");
  const says = async (...words) => run(programs.rollcall, words, node.env);
  await until(async () => (await says("status")).code === 0, "all nodes are healthy");
  const who = await says("users", ROOM);
  assert.equal(who.code, 0, who.stderr);
  assert.equal(who.stdout.match(/^\S+ +user-\d+ /gm).length, crowd.length, who.stdout);
  await until(async () => (await says("audit", "--pause", "2s")).code === 0, "Redis and the nodes agree");
});

test("no secret is on a command line or in a log", async () => {
  for (const name of ["mesh_token", "redis_password", "jwt_key", "grafana_password", "admin_token"]) {
    const secret = (await deployment.read(`secrets/${name}`)).trim().replace("ops: ", "");
    assert.equal(secret.length, 64, name);
    assert.ok(!deployment.logs.includes(secret), name);
    for (const { process } of [...deployment.of("node"), ...deployment.of("redis"), ...deployment.of("balancer")]) {
      for (const file of ["cmdline", "environ"]) {
        const text = await readFile(`/proc/${process.child.pid}/${file}`, "utf8");
        assert.ok(!text.includes(secret), `${name} in ${file}`);
      }
    }
  }
});

test("the balancer stops without waiting for its connections", async () => {
  const [balancer] = deployment.of("balancer");
  await within(balancer.stop(), "the balancer ends");
});
