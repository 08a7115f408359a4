// The official clients with their default transports: polling first, then an upgrade if it is possible. They connect to
// one node, or through a balancer that sends each request to another of four nodes.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import io2 from "socket.io-client-v2";
import { io as io3 } from "socket.io-client-v3";
import { io as io4 } from "socket.io-client-v4";

import { Balancer } from "./balancer.js";
import { Cluster, Node, Process, programs, rollcall, until, within } from "./cluster.js";

const OK = { ok: true };
const POLLING = ["--transports", "websocket,polling"];
const RECONNECT = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
const MANY = 12;

let cluster;
let balancer;
before(async () => {
  cluster = await Cluster.start({ more: POLLING });
  balancer = await Balancer.start(cluster.nodes);
});
after(async () => {
  await balancer?.stop();
  await cluster.stop();
});

/** A socket that is connecting. */
function open(t, io, { listen }, query, options) {
  const socket = io(`http://${listen}`, { forceNew: true, reconnection: false, query, ...options });
  t.after(() => socket.disconnect());
  return socket;
}

async function connect(t, io, where, query, options) {
  const socket = open(t, io, where, query, options);
  await connected(socket);
  return socket;
}

function connected(socket) {
  const connecting = new Promise((done, fail) => {
    socket.once("connect", done);
    socket.once("connect_error", fail);
  });
  return within(connecting, "the client is connected");
}

/** Emits an event. Returns its acknowledgement. */
function ask(socket, event, room) {
  const acknowledged = new Promise((done) => socket.emit(event, room, done));
  return within(acknowledged, `${event} is acknowledged`);
}

function transport(socket) {
  return socket.io.engine.transport.name;
}

for (const [version, io] of [[4, io4], [3, io3]]) {
  describe(`socket.io-client ${version}`, () => {
    const roomOf = (t) => `${version}: ${t.name}`;

    test("stays one socket while it upgrades from polling", async (t) => {
      const room = roomOf(t);
      const socket = await connect(t, io, cluster.nodes[0], { id_user: "foo", room });
      const row = { id_socket: socket.id, id_user: "foo" };
      await cluster.assertListed(room, row);
      await until(() => transport(socket) === "websocket", "it has upgraded");
      assert.deepEqual(await ask(socket, "join", `${room} (second)`), OK);
      await cluster.assertListed(room, row);
      await cluster.assertListed(`${room} (second)`, row);
      assert.notEqual(socket.io.engine.id, socket.id);
      socket.disconnect();
      await cluster.untilListed(room);
    });

    test("is removed at once when its upgraded connection breaks", async (t) => {
      const room = roomOf(t);
      const socket = await connect(t, io, cluster.nodes[0], { id_user: "foo", room });
      await until(() => transport(socket) === "websocket", "it has upgraded");
      socket.io.engine.transport.ws.terminate();
      await cluster.untilListed(room);
    });

    test("polls through a balancer without sticky sessions", async (t) => {
      const room = roomOf(t);
      const before = new Map(balancer.requests);
      const sockets = await Promise.all(
        Array.from({ length: MANY }, (_, index) =>
          connect(t, io, balancer, { id_user: `user ${index}`, room }, { transports: ["polling"] }),
        ),
      );
      const rows = sockets.map((socket, index) => ({ id_socket: socket.id, id_user: `user ${index}` }));
      await cluster.assertListed(room, ...rows);
      for (const [index, socket] of sockets.entries()) {
        assert.deepEqual(await ask(socket, "join", `${room} (second)`), OK);
        if (index % 2 === 0) assert.deepEqual(await ask(socket, "leave", room), OK);
      }
      await cluster.assertListed(`${room} (second)`, ...rows);
      await cluster.assertListed(room, ...rows.filter((_, index) => index % 2 === 1));
      for (const { name } of cluster.nodes) assert.ok(balancer.requests.get(name) - (before.get(name) ?? 0) >= MANY, name);
      for (const socket of sockets.slice(1)) socket.disconnect();
      await cluster.untilListed(`${room} (second)`, rows[0]);
      assert.ok(sockets[0].connected);
    });

    test("connects through that balancer with its default transports", async (t) => {
      const room = roomOf(t);
      const users = Array.from({ length: MANY }, (_, index) => `user ${index}`);
      const sockets = users.map((id_user) => open(t, io, balancer, { id_user, room }));
      const tried = sockets.map(
        ({ io }) =>
          new Promise((done) => {
            for (const event of ["upgrade", "upgradeError"]) io.engine.once(event, () => done(event));
          }),
      );
      await Promise.all(sockets.map(connected));
      const rows = sockets.map(({ id }, index) => ({ id_socket: id, id_user: users[index] }));
      const heard = await within(Promise.all(tried), "each has upgraded or failed to");
      assert.ok(heard.includes("upgradeError"), "most upgrades reach another node");
      for (const socket of sockets) assert.deepEqual(await ask(socket, "join", `${room} (second)`), OK);
      await cluster.assertListed(room, ...rows);
      await cluster.assertListed(`${room} (second)`, ...rows);
    });

    test("receives the reason of a refusal", async (t) => {
      const socket = open(t, io, balancer, { id_user: "foo" }, { transports: ["polling"] });
      const refused = new Promise((done) => socket.once("connect_error", done));
      assert.match((await within(refused, "it is refused")).message, /^room_missing: \S/);
    });

    for (const [how, end] of [
      ["stopped", async (node) => assert.equal(await node.stop(), 0)],
      ["killed", async (node) => {
        node.process.child.kill("SIGKILL");
        await node.process.code;
      }],
    ]) {
      test(`reconnects through the balancer when its node is ${how}`, async (t) => {
        const room = roomOf(t);
        const options = { transports: ["polling"], ...RECONNECT };
        const sockets = await Promise.all(
          Array.from({ length: MANY }, (_, index) => connect(t, io, balancer, { id_user: `user ${index}`, room }, options)),
        );
        // A client sends one request at a time. So after the acknowledgements, no request is in flight that a node
        // could lose.
        await Promise.all(sockets.map((socket) => ask(socket, "join", room)));
        const before = sockets.map((socket) => socket.id);
        const reasons = sockets.map(() => []);
        sockets.forEach((socket, index) => socket.on("disconnect", (reason) => reasons[index].push(reason)));
        const node = cluster.nodes[2];
        const { users } = await rollcall(node, room);
        const ending = new Set(users.filter((user) => user.node === node.name).map((user) => user.id_socket));
        await end(node);
        const rows = () => sockets.map(({ id }, index) => ({ id_socket: id, id_user: `user ${index}` }));
        const living = cluster.nodes.filter((other) => other !== node);
        await until(async () => {
          const all = await Promise.all(living.map(async (other) => JSON.stringify(await listed(other, room))));
          const expected = JSON.stringify(rows().toSorted((one, next) => (one.id_socket < next.id_socket ? -1 : 1)));
          return sockets.every((socket) => socket.connected) && all.every((answer) => answer === expected);
        }, "exactly the reconnected clients are listed");
        for (const [index, heard] of reasons.entries()) {
          assert.ok(heard.every((reason) => reason.startsWith("transport ")), `${heard}`);
          // A killed node breaks every poll that waits on it, also those of other nodes' sessions.
          if (how === "stopped") assert.equal(heard.length, ending.has(before[index]) ? 1 : 0, `${heard}`);
        }
        const next = await cluster.restart(node);
        balancer.nodes = cluster.nodes;
        await until(async () => (await listed(next, room)).length === MANY, "the new node lists all of them");
      });
    }
  });
}

/** The users of the room by a node's answer, complete or not. */
async function listed(node, room) {
  const response = await fetch(`http://${node.listen}/${encodeURIComponent(room)}/users`);
  return (await response.json()).toSorted((one, next) => (one.id_socket < next.id_socket ? -1 : 1));
}

describe("socket.io-client 2", () => {
  test("is refused over polling, and accepted over WebSocket", async (t) => {
    const query = { id_user: "foo", room: "two" };
    const refused = new Promise((done) => open(t, io2, cluster.nodes[0], query).once("connect_error", done));
    assert.equal((await within(refused, "it is refused")).message, "xhr poll error");
    await cluster.assertListed("two");
    const socket = await connect(t, io2, cluster.nodes[0], query, { transports: ["websocket"] });
    await cluster.assertListed("two", { id_socket: socket.id, id_user: "foo" });
  });
});

for (const program of ["client.py", "async_client.py"]) {
  describe(`python-socketio, ${program}`, () => {
    /** Starts the Python client. Returns a function that sends it a command. */
    async function start(t) {
      const python = new Process(programs.python, [join(import.meta.dirname, program)]);
      t.after(async () => {
        python.child.stdin.end();
        assert.equal(await python.code, 0, python.stderr);
      });
      let answers = 0;
      return async (command) => {
        python.child.stdin.write(`${JSON.stringify(command)}\n`);
        const nth = answers++;
        const line = () => python.stdout.split("\n").slice(0, -1)[nth];
        return JSON.parse(await python.becomes(line, `answering ${JSON.stringify(command)}`));
      };
    }

    for (const [how, transports] of [["the default transports", null], ["polling alone", ["polling"]]]) {
      test(`connects with ${how}, to a node and through the balancer`, async (t) => {
        for (const where of [cluster.nodes[1], balancer, balancer, balancer, balancer]) {
          const send = await start(t);
          const room = `${program}: ${t.name}: ${where.listen}`;
          const url = `http://${where.listen}?${new URLSearchParams({ id_user: "foo", room })}`;
          const { id, transport, error } = await send({ do: "connect", url, transports });
          assert.match(id ?? error, /^[\w-]{16}$/);
          const upgrades = transports === null && where !== balancer;
          if (upgrades) assert.equal(transport, "websocket");
          const row = { id_socket: id, id_user: "foo" };
          await cluster.assertListed(room, row);
          assert.deepEqual(await send({ do: "call", event: "join", room: `${room} (second)` }), { ack: OK });
          await cluster.assertListed(`${room} (second)`, row);
          assert.deepEqual(await send({ do: "disconnect" }), { connected: false });
          await cluster.untilListed(room);
        }
      });
    }
  });
}

test("a node without polling refuses polling clients", async (t) => {
  const node = await Node.start({ name: "alone" });
  t.after(() => node.stop());
  const socket = open(t, io4, node, { id_user: "foo", room: "a" });
  const refused = new Promise((done) => socket.once("connect_error", done));
  assert.equal((await within(refused, "it is refused")).message, "xhr poll error");
});
