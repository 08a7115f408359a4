// The official Python client, python-socketio, against a cluster of four nodes. It runs as a child process that does
// what it is told line by line (client.py).

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

  async tell(what) {
    this.process.child.stdin.write(`${JSON.stringify(what)}\n`);
    const nth = this.answers++;
    const line = () => this.process.stdout.split("\n").slice(0, -1)[nth];
    return JSON.parse(await this.process.becomes(line, `answering ${JSON.stringify(what)}`));
  }

  connect(node, query, auth) {
    const url = `http://${node.listen}?${new URLSearchParams(query)}`;
    return this.tell({ do: "connect", url, auth, transports: ["websocket"] });
  }

  /** The id of its socket; `null` while it is not connected. */
  async id() {
    return (await this.tell({ do: "id" })).id;
  }

  async call(event, room) {
    return (await this.tell({ do: "call", event, room })).ack;
  }
}

test("a client is in the roll of every node as soon as it is connected, in every room it named", async (t) => {
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

test("the auth payload wins over the query, key by key", async (t) => {
  const query = { id_user: "query", room: "asked" };
  const { id } = await new Python(t).connect(cluster.nodes[0], query, { room: ["one", "two"] });
  await cluster.assertListed("asked");
  await cluster.assertListed("one", { id_socket: id, id_user: "query" });
  await cluster.assertListed("two", { id_socket: id, id_user: "query" });
});

test("a client that is refused hears why, is not listed, and can connect after all", async (t) => {
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

test("join and leave are in the roll of every node as soon as they are acknowledged", async (t) => {
  const python = new Python(t);
  const { id } = await python.connect(cluster.nodes[1], { id_user: "foo", room: "home" });
  const row = { id_socket: id, id_user: "foo" };
  assert.deepEqual(await python.call("join", "guest"), OK);
  await cluster.assertListed("guest", row);
  assert.deepEqual(await python.call("leave", "home"), OK);
  await cluster.assertListed("home");
  await cluster.assertListed("guest", row);
});

test("a room that cannot be is refused in the acknowledgement, and the socket stays", async (t) => {
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

test("a client that disconnects is gone from every node, and nobody else is", async (t) => {
  const [goes, stays] = [new Python(t), new Python(t)];
  const going = await goes.connect(cluster.nodes[3], { id_user: "goes", room: "leaving" });
  const staying = await stays.connect(cluster.nodes[3], { id_user: "stays", room: "leaving" });
  const row = { id_socket: staying.id, id_user: "stays" };
  await cluster.assertListed("leaving", { id_socket: going.id, id_user: "goes" }, row);
  assert.deepEqual(await goes.tell({ do: "disconnect" }), { connected: false });
  await cluster.untilListed("leaving", row);
});

test("a client whose node is stopped comes back by itself when a node listens there again", async (t) => {
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
