// What the node says of its REST interface, held against it by schemathesis, which makes up requests of all kinds: those
// that the description allows are answered as it says, and those that it does not allow are refused as it says.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { io } from "socket.io-client-v4";

import { Node, Process, get, programs } from "./cluster.js";

const TOKEN = "0123456789abcdef0123456789abcdef";
/** Requests of each kind for each operation. */
const EXAMPLES = 60;

const schemathesis = { path: join(dirname(programs.python.path), "schemathesis"), hint: programs.python.hint };

/** Lets schemathesis loose on the node, and fails with what it says. */
async function holds(t, node, headers = []) {
  // It leaves files where it works.
  const folder = await mkdtemp(join(tmpdir(), "rollcall-openapi-"));
  t.after(() => rm(folder, { recursive: true }));
  const args = ["run", `http://${node.listen}/_/openapi.json`, "--checks", "all", "--max-examples", `${EXAMPLES}`];
  args.push("--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--generation-database", "none");
  args.push("--no-color", "--seed", "1", ...headers.flatMap((header) => ["--header", header]));
  const ran = new Process({ path: "/bin/sh" }, ["-c", 'cd "$1" && shift && exec "$@"', "sh", folder, schemathesis.path, ...args]);
  const code = await ran.code;
  assert.equal(code, 0, ran.stdout + ran.stderr);
  assert.match(ran.stdout, /No issues found/, ran.stdout);
}

test("schemathesis is there", () => {
  assert.equal(spawnSync(schemathesis.path, ["--version"]).status, 0, schemathesis.hint);
});

test("a node that answers everybody does what it says", async (t) => {
  const node = await Node.start({ name: "open" });
  t.after(() => node.stop());
  const options = { transports: ["websocket"], forceNew: true, query: { id_user: "foo", room: "Maths" } };
  const socket = io(`http://${node.listen}`, options);
  t.after(() => socket.disconnect());
  await new Promise((done, fail) => socket.once("connect", done).once("connect_error", fail));
  const { status, headers, body } = await get(node.listen, "/_/openapi.json");
  assert.equal(status, 200);
  assert.match(headers["content-type"], /^application\/json/);
  const told = JSON.parse(body);
  assert.match(told.openapi, /^3\.1\./);
  assert.deepEqual(Object.keys(told.paths).sort(), ["/{room}/rollcall", "/{room}/users"]);
  assert.equal(told.security, undefined);
  await holds(t, node);
});

test("a node that asks callers who they are does what it says, and says that it does", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "rollcall-openapi-"));
  t.after(() => rm(folder, { recursive: true }));
  const file = join(folder, "tokens");
  await writeFile(file, `schemathesis: ${TOKEN}\n`);
  const more = ["--api-access", "token", "--api-token-file", file];
  const node = await Node.start({ name: "closed", more });
  t.after(() => node.stop());
  const told = JSON.parse((await get(node.listen, "/_/openapi.json")).body);
  assert.deepEqual(told.security, [{ bearer: [] }]);
  await holds(t, node, [`Authorization: Bearer ${TOKEN}`]);
});
