// The cluster as operators see it: the mesh with grpcurl, the index with redis-cli. The last test stops all nodes.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { io } from "socket.io-client-v4";

import { Cluster, programs, run, until, within } from "./cluster.js";

const LOOKUP = "rollcall.v1.MeshService/LookupSockets";
const DESCRIBE = "rollcall.v1.MeshService/Describe";
/** The exit codes of grpcurl: 64 plus the gRPC status. */
const INVALID_ARGUMENT = 64 + 3;
const FAILED_PRECONDITION = 64 + 9;

let cluster, node, elsewhere, socket, row, id;

before(async () => {
  cluster = await Cluster.start();
  [node, elsewhere] = cluster.nodes;
  socket = await connect({ id_user: "foo", room: ["Maths", "home"] });
  row = { id_socket: socket.id, id_user: "foo" };
  id = (await lookup(node, { room: "Maths" })).node_id;
});

after(async () => {
  socket?.disconnect();
  await cluster?.stop();
});

/** Connects a client to the first node. */
async function connect(auth) {
  const socket = io(`http://${node.listen}`, { transports: ["websocket"], forceNew: true, reconnection: false, auth });
  const connecting = new Promise((done, fail) => socket.once("connect", done).once("connect_error", fail));
  await within(connecting, "the client is connected");
  return socket;
}

async function grpcurl(...args) {
  return run(programs.grpcurl, ["-plaintext", ...args]);
}

async function ok(...args) {
  const { code, stdout, stderr } = await grpcurl(...args);
  assert.equal(code, 0, stderr);
  return stdout;
}

async function lookup(at, request) {
  return JSON.parse(await ok("-d", JSON.stringify(request), at.mesh, LOOKUP));
}

async function assertRefused(request, code, status, message) {
  const answer = await grpcurl("-v", "-d", JSON.stringify(request), node.mesh, LOOKUP);
  assert.equal(answer.code, code, answer.stderr);
  assert.match(answer.stderr, new RegExp(`^  Code: ${status}$`, "m"));
  assert.match(answer.stderr, message);
  return answer.stdout;
}

test("the mesh lists its services", async () => {
  const services = (await ok(node.mesh, "list")).trim().split("\n");
  assert.ok(services.includes("rollcall.v1.MeshService"), services.join());
  assert.ok(services.includes("grpc.health.v1.Health"), services.join());
});

test("the mesh describes its service and its messages", async () => {
  const service = await ok(node.mesh, "describe", "rollcall.v1.MeshService");
  assert.match(service, /^rollcall\.v1\.MeshService is a service:/);
  assert.match(
    service,
    /rpc LookupSockets \( \.rollcall\.v1\.LookupSocketsRequest \) returns \( \.rollcall\.v1\.LookupSocketsResponse \);/,
  );
  const request = await ok(node.mesh, "describe", "rollcall.v1.LookupSocketsRequest");
  for (const field of ["string room = 1", "repeated string id_sockets = 2", "string node_id = 3"]) {
    assert.ok(request.includes(field), request);
  }
});

test("a node returns only its own sockets of a room", async () => {
  const { version, ...rest } = await lookup(node, { room: "Maths" });
  assert.deepEqual(rest, { node_id: id, sockets: [row] });
  assert.match(version, /^[1-9]\d*$/);
  const { node_id, ...nothing } = await lookup(elsewhere, { room: "Maths" });
  assert.deepEqual(nothing, {});
  assert.notEqual(node_id, id);
});

test("a node finds its sockets by id", async () => {
  assert.deepEqual(await lookup(node, { id_sockets: [socket.id, "unknown"] }), { node_id: id, sockets: [row] });
  assert.deepEqual(await lookup(node, { id_sockets: ["unknown"] }), { node_id: id });
});

test("a node describes itself and its busiest rooms", async () => {
  const describe = (request) => ok("-d", JSON.stringify(request), node.mesh, DESCRIBE);
  const description = JSON.parse(await describe({ busiest_rooms: 2 }));
  const busiest_rooms = ["Maths", "home"].map((room) => ({ room, sockets: "1" }));
  assert.deepEqual(description.busiest_rooms, busiest_rooms);
  const { node_id, name, mesh, sockets, rooms, counts } = description;
  assert.deepEqual(
    { node_id, name, mesh, sockets, rooms, counts },
    { node_id: id, name: node.name, mesh: node.mesh, sockets: "1", rooms: "2", counts: true },
  );
  assert.equal(JSON.parse(await describe({})).busiest_rooms, undefined);
  const { code, stderr } = await grpcurl("-d", '{"busiest_rooms":101}', node.mesh, DESCRIBE);
  assert.equal(code, INVALID_ARGUMENT, stderr);
});

test("a room and ids select the listed sockets in the room", async () => {
  const other = await connect({ id_user: "bar", room: "Maths" });
  try {
    const id_sockets = [socket.id];
    assert.deepEqual(await lookup(node, { room: "Maths", id_sockets }), { node_id: id, sockets: [row] });
    assert.deepEqual(await lookup(node, { room: "home", id_sockets: [other.id] }), { node_id: id });
  } finally {
    other.disconnect();
    await cluster.untilListed("Maths", row);
  }
});

test("a request for another node is refused with the id of this one", async () => {
  const { node_id } = await lookup(elsewhere, { room: "Maths" });
  const request = { room: "Maths", node_id };
  const trailers = await assertRefused(request, FAILED_PRECONDITION, "FailedPrecondition", new RegExp(node_id));
  assert.match(trailers, new RegExp(`^rollcall-node-id: ${id}$`, "m"));
  assert.deepEqual((await lookup(node, { ...request, node_id: id })).sockets, [row]);
});

test("an invalid request is refused", async () => {
  const refuse = (request, message) => assertRefused(request, INVALID_ARGUMENT, "InvalidArgument", message);
  await refuse({}, /room, id_sockets/);
  await refuse({ node_id: id }, /room, id_sockets/);
  await refuse({ room: "socket.io" }, /room must not be/);
  await refuse({ room: "Maths", node_id: "north" }, /node_id/);
  await refuse({ room: "Maths", known_version: "1" }, /known_version/);
  await refuse({ id_sockets: [socket.id], node_id: id, known_version: "1" }, /known_version/);
  await refuse({ room: "Maths", id_sockets: [socket.id], node_id: id, known_version: "1" }, /known_version/);
});

test("unchanged rows are not sent again", async () => {
  const { version } = await lookup(node, { room: "Maths" });
  const request = { room: "Maths", node_id: id, known_version: version };
  assert.deepEqual(await lookup(node, request), { node_id: id, version, unchanged: true });

  const other = await connect({ id_user: "bar", room: "Maths" });
  const changed = await lookup(node, request);
  const rows = [row, { id_socket: other.id, id_user: "bar" }];
  assert.deepEqual(new Set(changed.sockets), new Set(rows));
  assert.equal("unchanged" in changed, false);

  other.disconnect();
  await cluster.untilListed("Maths", row);
  const back = await lookup(node, request);
  assert.deepEqual(back.sockets, [row]);
  assert.equal(new Set([version, changed.version, back.version]).size, 3);
});

test("the mesh is healthy", async () => {
  for (const service of ["", "rollcall.v1.MeshService"]) {
    const answer = await ok("-d", JSON.stringify({ service }), node.mesh, "grpc.health.v1.Health/Check");
    assert.deepEqual(JSON.parse(answer), { status: "SERVING" });
  }
});

test("Redis lists the owners and the sockets of a room", async () => {
  assert.deepEqual(await cluster.redis.cli("SMEMBERS", "rollcall:owners:Maths"), [id]);
  const listed = async () => (await cluster.redis.cli("SMEMBERS", `rollcall:room:${id}:Maths`)).join() === socket.id;
  await until(listed, "the socket is in the list of its room");
});

test("Redis lists the nodes", async () => {
  const ids = await cluster.redis.cli("SMEMBERS", "rollcall:nodes");
  assert.equal(ids.length, cluster.nodes.length);
  assert.ok(ids.includes(id), ids.join());
  const [entry] = await cluster.redis.cli("GET", `rollcall:node:${id}`);
  const { since, renewal, ...rest } = JSON.parse(entry);
  assert.deepEqual(rest, { name: node.name, mesh: node.mesh, draining: false });
  assert.ok(renewal > 0, `${renewal} renewals`);
  const age = Date.now() - Date.parse(since);
  assert.ok(age > 0 && age < 10 * 60_000, since);
});

test("the keys of a room are removed after its last socket", async () => {
  const keys = ["rollcall:owners:Maths", `rollcall:room:${id}:Maths`];
  assert.deepEqual(await cluster.redis.cli("EXISTS", ...keys), ["2"]);
  const left = new Promise((done) => socket.emit("leave", "Maths", done));
  assert.deepEqual(await within(left, "the leave is acknowledged"), { ok: true });
  await cluster.assertListed("Maths");
  await until(async () => (await cluster.redis.cli("EXISTS", ...keys))[0] === "0", "the keys of the room are gone");
  assert.deepEqual(await cluster.redis.cli("SMEMBERS", "rollcall:owners:home"), [id]);
});

test("stopped nodes leave nothing but the epoch, which expires", async () => {
  await cluster.assertListed("home", row);
  assert.deepEqual(await cluster.stopNodes(), [0, 0, 0, 0]);
  assert.deepEqual((await cluster.redis.cli("KEYS", "*")).filter((key) => key !== "rollcall:epoch"), []);
  const gone = async () => (await cluster.redis.cli("EXISTS", "rollcall:epoch"))[0] === "0";
  await until(gone, "the epoch has expired");
});
