// A closed cluster with common tools: grpcurl with a certificate and with a token, the official client over wss, and
// HTTP/2.

import assert from "node:assert/strict";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import http2 from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { io as io3 } from "socket.io-client-v3";
import { io as io4 } from "socket.io-client-v4";

import { Node, Redis, programs, run, until, within } from "./cluster.js";

const LOOKUP = "rollcall.v1.MeshService/LookupSockets";
const TOKEN = "0123456789abcdef0123456789abcdef";

let folder, redis, nodes, ca;

const file = (name) => join(folder, name);
const connected = (socket) => new Promise((done, fail) => socket.once("connect", done).once("connect_error", fail));

before(async () => {
  folder = await mkdtemp(join(tmpdir(), "rollcall-trust-"));
  const { code, stderr } = await run(programs.rollcall, ["certs", "--out", folder, "127.0.0.1"]);
  assert.equal(code, 0, stderr);
  await writeFile(file("token"), `${TOKEN}\n`);
  ca = await readFile(file("ca.pem"));
  redis = await Redis.start();
  const more = ["--mesh-ca", file("ca.pem"), "--mesh-cert", file("127.0.0.1.pem"), "--mesh-key", file("127.0.0.1.key")];
  more.push("--tls-cert", file("127.0.0.1.pem"), "--tls-key", file("127.0.0.1.key"));
  nodes = await Promise.all(["north", "east"].map((name) => Node.start({ name, redis: redis.url, more })));
});

after(async () => {
  await Promise.all((nodes ?? []).map((node) => node.stop()));
  await redis?.stop();
  await rm(folder, { recursive: true, force: true });
});

/** A GET request over HTTP/2, which ALPN must have selected. */
async function get(node, path) {
  const session = http2.connect(`https://${node.listen}`, { ca });
  const answered = new Promise((done, fail) => {
    session.once("error", fail);
    const request = session.request({ ":path": path });
    const answer = { body: "" };
    request.once("response", (headers) => (answer.headers = headers)).once("error", fail);
    request.setEncoding("utf8").on("data", (text) => (answer.body += text));
    request.once("end", () => done(answer));
  });
  try {
    const answer = await within(answered, `${node.name} answers ${path}`);
    assert.equal(session.alpnProtocol, "h2");
    return answer;
  } finally {
    session.destroy();
  }
}

test("every node lists clients that connected over wss", async () => {
  for (const io of [io4, io3]) {
    const socket = io(`https://${nodes[0].listen}`, {
      transports: ["websocket"],
      forceNew: true,
      reconnection: false,
      query: { id_user: "foo", room: "Maths" },
      ca,
    });
    try {
      await within(connected(socket), "the client is connected");
      for (const node of nodes) {
        const { headers, body } = await get(node, "/Maths/users");
        assert.equal(headers[":status"], 200);
        assert.equal(headers["rollcall-complete"], "true");
        assert.deepEqual(JSON.parse(body), [{ id_socket: socket.id, id_user: "foo" }]);
      }
    } finally {
      socket.disconnect();
    }
    await until(async () => (await get(nodes[1], "/Maths/users")).body === "[]", "the client is gone");
  }
});

test("a client that does not trust the certificate gives up", async () => {
  const socket = io4(`https://${nodes[0].listen}`, { transports: ["websocket"], forceNew: true, reconnection: false });
  await assert.rejects(within(connected(socket), "the client gives up"));
  socket.disconnect();
});

test("grpcurl needs a certificate of the mesh", async () => {
  const { mesh } = nodes[0];
  const certificate = ["-cacert", file("ca.pem"), "-cert", file("127.0.0.1.pem"), "-key", file("127.0.0.1.key")];
  const listed = await run(programs.grpcurl, [...certificate, mesh, "list"]);
  assert.match(listed.stdout, /^rollcall\.v1\.MeshService$/m, listed.stderr);
  const answered = await run(programs.grpcurl, [...certificate, "-d", '{"room":"Maths"}', mesh, LOOKUP]);
  assert.match(JSON.parse(answered.stdout).node_id, /-1$/, answered.stderr);
  for (const without of [["-cacert", file("ca.pem")], ["-plaintext"]]) {
    const refused = await run(programs.grpcurl, [...without, "-connect-timeout", "2", mesh, "list"]);
    assert.notEqual(refused.code, 0);
    assert.equal(refused.stdout, "");
  }
});

test("grpcurl needs the token of the mesh", async (t) => {
  const node = await Node.start({ name: "south", more: ["--mesh-token-file", file("token")] });
  t.after(() => node.stop());
  const header = ["-expand-headers", "-H", "authorization: Bearer ${TOKEN}"];
  const ask = ["-plaintext", ...header, "-d", '{"room":"Maths"}', node.mesh, LOOKUP];
  const answered = await run(programs.grpcurl, ask, { TOKEN });
  assert.match(JSON.parse(answered.stdout).node_id, /-1$/, answered.stderr);
  const wrong = await run(programs.grpcurl, ask, { TOKEN: TOKEN.replace("0", "1") });
  assert.notEqual(wrong.code, 0);
  const without = ["-plaintext", "-d", "{}", node.mesh, "grpc.health.v1.Health/Check"];
  // Not even the list of services is available.
  const refused = await run(programs.grpcurl, without);
  assert.notEqual(refused.code, 0);
  assert.match(refused.stderr, /no valid token of this mesh/);
  const listed = await run(programs.grpcurl, ["-plaintext", node.mesh, "list"]);
  assert.notEqual(listed.code, 0);
  assert.equal(listed.stdout, "");
});
