// The official Python client, python-socketio, against a cluster of four nodes. It runs as a child process that reads
// commands line by line (client.py).

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { Cluster, Process, programs, until } from "./cluster.js";

const OK = { ok: true };

let cluster;
before(async () => (cluster = await Cluster.start()));
after(() => cluster.stop());

/** One python-socketio client. */
class Python {
  constructor(t) {
    this.process = new Process(programs.python, [join(import.meta.dirname, "client.py")]);
    this.answers = 0;
    t.after(async () => {
      this.process.child.stdin.end();
      assert.equal(await this.process.code, 0, this.process.stderr);
    });
  }

  async send(command) {
    this.process.child.stdin.write(`${JSON.stringify(command)}\n`);
    const nth = this.answers++;
    const line = () => this.process.stdout.split("\n").slice(0, -1)[nth];
    return JSON.parse(await this.process.becomes(line, `answering ${JSON.stringify(command)}`));
  }

  connect(node, query, auth) {
    const url = `http://${node.listen}?${new URLSearchParams(query)}`;
    return this.send({ do: "connect", url, auth, transports: ["websocket"] });
  }

  /** The id of its socket; `null` while it is not connected. */
  async id() {
    return (await this.send({ do: "id" })).id;
  }

  async call(event, room) {
    return (await this.send({ do: "call", event, room })).ack;
  }
}

test("a connected client is in the roll of every room that it named", async (t) => {
  const rows = [];
  for (const [index, node] of cluster.nodes.entries()) {
    const id_user = `user ${index}`;
    const query = [["id_user", id_user], ["room", "Maths"], ["room", "café au lait / 100%"]];
    const { id } = await new Python(t).connect(node, query);
    assert.match(id, /\S/);
    rows.push({ id_socket: id, id_user });
    await cluster.assertListed("Maths", ...rows);
    await cluster.assertListed("café au lait / 100%", ...rows);
  }
});

test("each key of the auth payload overrides the query", async (t) => {
  const query = { id_user: "query", room: "asked" };
  const { id } = await new Python(t).connect(cluster.nodes[0], query, { room: ["one", "two"] });
  await cluster.assertListed("asked");
  await cluster.assertListed("one", { id_socket: id, id_user: "query" });
  await cluster.assertListed("two", { id_socket: id, id_user: "query" });
});

test("a refused client gets the reason, and can connect later", async (t) => {
  const python = new Python(t);
  const [node] = cluster.nodes;
  const refusals = [
    ["id_user_missing", { room: "refused" }],
    ["id_user_invalid", { room: "refused", id_user: "" }],
    ["id_user_invalid", [["room", "refused"], ["id_user", "foo"], ["id_user", "bar"]]],
    ["room_missing", { id_user: "foo" }],
    ["room_invalid", [["id_user", "foo"], ["room", "refused"], ["room", "socket.io"]]],
    ["rooms_too_many", { id_user: "foo" }, { room: ["refused", ...Array.from({ length: 64 }, (_, n) => `${n}`)] }],
  ];
  for (const [code, query, auth] of refusals) {
    const { refusal, error } = await python.connect(node, query, auth);
    assert.match(refusal.message, new RegExp(`^${code}: \\S`));
    assert.equal(error, "One or more namespaces failed to connect: /");
    await cluster.assertListed("refused");
  }
  const { id } = await python.connect(node, { id_user: "foo", room: "refused" });
  await cluster.assertListed("refused", { id_socket: id, id_user: "foo" });
});

test("an acknowledged join or leave is in the roll of every node", async (t) => {
  const python = new Python(t);
  const { id } = await python.connect(cluster.nodes[1], { id_user: "foo", room: "home" });
  const row = { id_socket: id, id_user: "foo" };
  assert.deepEqual(await python.call("join", "guest"), OK);
  await cluster.assertListed("guest", row);
  assert.deepEqual(await python.call("leave", "home"), OK);
  await cluster.assertListed("home");
  await cluster.assertListed("guest", row);
});

test("an invalid room is refused in the acknowledgement", async (t) => {
  const python = new Python(t);
  const { id } = await python.connect(cluster.nodes[2], { id_user: "foo", room: "stays" });
  for (const event of ["join", "leave"]) {
    for (const wrong of ["", "_", 17, null, ["Maths"]]) {
      const { message, ...rest } = await python.call(event, wrong);
      assert.deepEqual(rest, { ok: false, code: "room_invalid" });
      assert.match(message, /\S/);
    }
  }
  await cluster.assertListed("stays", { id_socket: id, id_user: "foo" });
});

test("only the client that disconnects is removed on every node", async (t) => {
  const [goes, stays] = [new Python(t), new Python(t)];
  const going = await goes.connect(cluster.nodes[3], { id_user: "goes", room: "leaving" });
  const staying = await stays.connect(cluster.nodes[3], { id_user: "stays", room: "leaving" });
  const row = { id_socket: staying.id, id_user: "stays" };
  await cluster.assertListed("leaving", { id_socket: going.id, id_user: "goes" }, row);
  assert.deepEqual(await goes.send({ do: "disconnect" }), { connected: false });
  await cluster.untilListed("leaving", row);
});

test("a client reconnects when its stopped node is restarted", async (t) => {
  const python = new Python(t);
  const node = cluster.nodes[3];
  const { id } = await python.connect(node, { id_user: "foo", room: "again" });
  await cluster.assertListed("again", { id_socket: id, id_user: "foo" });
  assert.equal(await node.stop(), 0);
  await until(async () => (await python.id()) === null, "the client notices that its connection is closed");
  await cluster.restart(node);
  const back = await until(() => python.id(), "the client is back");
  assert.notEqual(back, id);
  await cluster.assertListed("again", { id_socket: back, id_user: "foo" });
});
