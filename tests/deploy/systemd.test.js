// Four nodes and a balancer on one host, with the units of `deploy/systemd` and with tokens.

import assert from "node:assert/strict";
import { createHmac, randomInt } from "node:crypto";
import { copyFile, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";

import { io } from "socket.io-client-v4";

import { Process, Redis, get, run, until, within } from "../clients/cluster.js";
import { haproxy } from "./programs.js";
import { service, startInstance } from "./units.js";

const DEPLOY = resolve(import.meta.dirname, "../../deploy");
const INSTANCES = ["1", "2", "3", "4"];

const address = `127.${randomInt(64, 255)}.${randomInt(1, 255)}.1`;
const balancer = `${address}:5000`;
let folder, redis, key;
let processes = [];
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "rollcall-systemd-"));
  redis = await Redis.start();
  const replaceAddresses = (text) =>
    text.replace(/127\.0\.0\.1:(\d+)/g, (_, port) => (port === "6379" ? `127.0.0.1:${redis.port}` : `${address}:${port}`));
  // The steps of deploy/README.md.
  await mkdir(join(folder, "deploy"));
  await copyFile(join(DEPLOY, "setup"), join(folder, "deploy/setup"));
  const setup = await run({ path: join(folder, "deploy/setup"), hint: "it is in the repository" }, ["jwt"]);
  assert.equal(setup.code, 0, setup.stderr);
  const etc = join(folder, "etc");
  await mkdir(etc);
  for (const secret of ["mesh_token", "jwt_key", "admin_token"]) {
    await copyFile(join(folder, "deploy/secrets", secret), join(etc, secret));
  }
  await copyFile(join(DEPLOY, "systemd/rollcall.env"), join(etc, "rollcall.env"));
  key = (await readFile(join(etc, "jwt_key"), "utf8")).trim();

  const settings = await service();
  for (const instance of INSTANCES) processes.push(await startInstance(settings, instance, { etc, folder, replaceAddresses }));
  const config = join(folder, "haproxy.cfg");
  // Without root, a process cannot change its user.
  const text = (await readFile(join(DEPLOY, "systemd/haproxy.cfg"), "utf8")).replace(/^ {4}(user|group) haproxy\n/gm, "");
  await writeFile(config, replaceAddresses(text));
  processes.push(new Process(haproxy, ["-W", "-db", "-f", config]));
  for (const [index, instance] of INSTANCES.entries()) {
    const ready = async () => (await get(`${address}:900${instance}`, "/readyz").catch(() => null))?.status === 200;
    await processes[index].becomes(ready, "ready");
  }
});
after(async () => {
  await Promise.all(processes.map((process) => process.stop()));
  await redis?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** A token of this user with the right to call the roll of every room. */
function token(user) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 600, roll_call: ["*"] };
  const signed = `${encode({ alg: "HS256" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", key).update(signed).digest("base64url")}`;
}

function ask(headers) {
  const asked = new Promise((tell, fail) => {
    const request = http.get(`http://${balancer}/Maths/users`, { agent: false, headers }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text) => (body += text));
      response.on("end", () => tell({ status: response.statusCode, body })).on("error", fail);
    });
    request.on("error", fail);
  });
  return within(asked, "the balancer answers");
}

test("only clients and callers with a token are accepted", async (t) => {
  await until(async () => (await ask({})).status === 401, "the balancer uses a node, which requires a token");
  const socket = io(`http://${balancer}`, { forceNew: true, auth: { token: token("ann"), room: "Maths" } });
  t.after(() => socket.disconnect());
  await within(new Promise((tell, fail) => socket.once("connect", tell).once("connect_error", fail)), "ann is connected");
  const { status, body } = await ask({ authorization: `Bearer ${token("bob")}` });
  assert.equal(status, 200, body);
  assert.deepEqual(JSON.parse(body), [{ id_socket: socket.id, id_user: "ann" }]);

  const stranger = io(`http://${balancer}`, { forceNew: true, reconnection: false, auth: { id_user: "ann", room: "Maths" } });
  t.after(() => stranger.disconnect());
  const refused = await within(new Promise((tell) => stranger.once("connect_error", tell)), "the stranger is refused");
  assert.match(refused.message, /^token_missing: /);
});

test("a stopped instance ends before its kill timeout", async () => {
  const settings = await service();
  const [last] = settings.get("TimeoutStopSec");
  const began = Date.now();
  assert.equal(await processes[3].stop(), 0);
  assert.ok((Date.now() - began) / 1000 < Number(last));
  const { status } = await ask({ authorization: `Bearer ${token("bob")}` });
  assert.equal(status, 200);
});
