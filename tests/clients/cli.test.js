// The command line: refusals, sources of flags, and a node that starts before its Redis.

import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";

import { Node, Redis, freePort, get, programs, run, until } from "./cluster.js";

const USAGE = 2;
const IDENTITY = ["--identity", "query"];
/** Free ports for a node that is not refused. */
const ANYWHERE = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

/** Asserts that the command line is refused with one line, and returns that line. */
async function refusal(args, env) {
  const { code, stdout, stderr } = await run(programs.rollcall, ["serve", ...ANYWHERE, ...args], env);
  assert.deepEqual({ code, stdout }, { code: USAGE, stdout: "" }, stderr);
  assert.match(stderr, /^rollcall: [^\n]+\n$/);
  return stderr;
}

test("the identity mode is required", async () => {
  assert.match(await refusal(["--mesh-listen", "127.0.0.1:0"]), /--identity is missing/);
  assert.match(await refusal(["--identity", "nobody"]), /'nobody' for '--identity/);
});

test("the environment can set the identity mode", async (t) => {
  const node = await Node.launch({ name: "north", identity: [], env: { ROLLCALL_IDENTITY: "query" } });
  t.after(() => node.stop());
  await node.ready();
  assert.equal((await get(node.listen, "/Maths/users")).body, "[]");
  assert.match(await refusal([], { ROLLCALL_IDENTITY: "nobody" }), /nobody/);
});

test("a mesh on all addresses needs an advertised address", async () => {
  assert.match(await refusal([...IDENTITY, "--mesh-listen", "0.0.0.0:7001"]), /pass --mesh-advertise/);
});

test("an open mesh is refused with any advertised address", async () => {
  const advertise = ["--mesh-advertise", "127.0.0.1:7001"];
  const line = await refusal([...IDENTITY, "--mesh-listen", "0.0.0.0:7001", ...advertise]);
  assert.match(line, /--mesh-listen 0\.0\.0\.0:7001 is open/);
});

test("an invalid duration is refused", async () => {
  for (const [flag, wrong] of [["--deadline", "soon"], ["--lease", "5"], ["--deadline", "-1s"]]) {
    assert.match(await refusal([...IDENTITY, `${flag}=${wrong}`]), new RegExp(`'${wrong}' for '${flag} `));
  }
});

test("a node waits for its Redis, and logs that once", async (t) => {
  const port = await freePort();
  const node = await Node.launch({ name: "north", redis: `redis://127.0.0.1:${port}` });
  t.after(() => node.stop());
  assert.equal((await get(node.admin, "/livez")).status, 200);
  const users = async () => {
    const { status, headers, body } = await get(node.listen, "/Maths/users");
    const answer = JSON.parse(body);
    return { status, complete: headers["rollcall-complete"], answer: answer.detail ?? answer };
  };
  const unready = await users();
  assert.equal(unready.status, 503);
  assert.match(unready.answer, /has not read the directory/);

  await refuseSomeConnections(port);
  assert.equal((await get(node.admin, "/livez")).status, 200);
  assert.equal((await get(node.admin, "/readyz")).status, 503);
  assert.deepEqual(await users(), unready);
  const [warning, ...more] = warnings(node);
  assert.match(warning, new RegExp(`127\\.0\\.0\\.1:${port}`));
  assert.deepEqual(more, []);

  const redis = await Redis.start(port);
  t.after(() => redis.stop());
  await node.ready();
  assert.deepEqual(await users(), { status: 200, complete: "true", answer: [] });
});

test("a node with a working Redis starts without a warning", async (t) => {
  const redis = await Redis.start();
  t.after(() => redis.stop());
  const node = await Node.start({ name: "north", redis: redis.url });
  t.after(() => node.stop());
  assert.deepEqual(warnings(node), []);
});

function warnings(node) {
  return node.process.stderr.split("\n").filter((line) => / (WARN|ERROR) /.test(line));
}

/** Refuses at least three connections of the node to this port. */
async function refuseSomeConnections(port) {
  let tried = 0;
  const server = net.createServer((connection) => {
    tried += 1;
    connection.on("error", () => {}).destroy();
  });
  await new Promise((done, fail) => server.once("error", fail).listen(port, "127.0.0.1", done));
  await until(() => tried >= 3, "the node retries the connection to Redis");
  await new Promise((done) => server.close(done));
}
