// The OpenAPI description of the REST API, checked by schemathesis. It generates requests of all kinds: the node must
// answer valid ones as described, and refuse invalid ones as described.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { io } from "socket.io-client-v4";

import { Node, Process, get, programs } from "./cluster.js";

const TOKEN = "0123456789abcdef0123456789abcdef";
/** The number of requests of each kind for each operation. */
const EXAMPLES = 60;

const schemathesis = { path: join(dirname(programs.python.path), "schemathesis"), hint: programs.python.hint };

/** Runs schemathesis against the node, and fails with its output. */
async function assertConforms(t, node, headers = []) {
  // It creates files in its working directory.
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

test("schemathesis is installed", () => {
  assert.equal(spawnSync(schemathesis.path, ["--version"]).status, 0, schemathesis.hint);
});

test("a node with open access conforms to its description", async (t) => {
  const node = await Node.start({ name: "open" });
  t.after(() => node.stop());
  const options = { transports: ["websocket"], forceNew: true, query: { id_user: "foo", room: "Maths" } };
  const socket = io(`http://${node.listen}`, options);
  t.after(() => socket.disconnect());
  await new Promise((done, fail) => socket.once("connect", done).once("connect_error", fail));
  const { status, headers, body } = await get(node.listen, "/_/openapi.json");
  assert.equal(status, 200);
  assert.match(headers["content-type"], /^application\/json/);
  const description = JSON.parse(body);
  assert.match(description.openapi, /^3\.1\./);
  assert.deepEqual(Object.keys(description.paths).sort(), ["/{room}/rollcall", "/{room}/users"]);
  assert.equal(description.security, undefined);
  await assertConforms(t, node);
});

test("a node with API tokens conforms to its description", async (t) => {
  const folder = await mkdtemp(join(tmpdir(), "rollcall-openapi-"));
  t.after(() => rm(folder, { recursive: true }));
  const file = join(folder, "tokens");
  await writeFile(file, `schemathesis: ${TOKEN}\n`);
  const more = ["--api-access", "token", "--api-token-file", file];
  const node = await Node.start({ name: "closed", more });
  t.after(() => node.stop());
  const description = JSON.parse((await get(node.listen, "/_/openapi.json")).body);
  assert.deepEqual(description.security, [{ bearer: [] }]);
  await assertConforms(t, node, [`Authorization: Bearer ${TOKEN}`]);
});
