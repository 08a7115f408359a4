// The official clients with the transports they begin with unless told otherwise: polling first, then an upgrade where
// that is possible. Against one node, and behind a balancer that sends each request to another of four nodes.

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
const AGAIN = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
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
  const heard = new Promise((tell, fail) => {
    socket.once("connect", tell);
    socket.once("connect_error", fail);
  });
  return within(heard, "the client is connected");
}

/** The acknowledgement of an event. */
function ask(socket, event, room) {
  const acknowledged = new Promise((tell) => socket.emit(event, room, tell));
  return within(acknowledged, `${event} is acknowledged`);
}

function transport(socket) {
  return socket.io.engine.transport.name;
}

for (const [version, io] of [[4, io4], [3, io3]]) {
  describe(`socket.io-client ${version}`, () => {
    const roomOf = (t) => `${version}: ${t.name}`;

    test("begins by polling, upgrades, and is one socket all the time", async (t) => {
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

    test("is gone at once when its upgraded connection breaks", async (t) => {
      const room = roomOf(t);
      const socket = await connect(t, io, cluster.nodes[0], { id_user: "foo", room });
      await until(() => transport(socket) === "websocket", "it has upgraded");
      socket.io.engine.transport.ws.terminate();
      await cluster.untilListed(room);
    });

    test("polls through a balancer that sends each request to another node", async (t) => {
      const room = roomOf(t);
      const before = new Map(balancer.given);
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
      for (const { name } of cluster.nodes) assert.ok(balancer.given.get(name) - (before.get(name) ?? 0) >= MANY, name);
      for (const socket of sockets.slice(1)) socket.disconnect();
      await cluster.untilListed(`${room} (second)`, rows[0]);
      assert.ok(sockets[0].connected);
    });

    test("comes with its usual transports through that balancer, and keeps whichever it gets", async (t) => {
      const room = roomOf(t);
      const users = Array.from({ length: MANY }, (_, index) => `user ${index}`);
      const sockets = users.map((id_user) => open(t, io, balancer, { id_user, room }));
      const tried = sockets.map(
        ({ io }) =>
          new Promise((tell) => {
            for (const event of ["upgrade", "upgradeError"]) io.engine.once(event, () => tell(event));
          }),
      );
      await Promise.all(sockets.map(connected));
      const rows = sockets.map(({ id }, index) => ({ id_socket: id, id_user: users[index] }));
      const heard = await within(Promise.all(tried), "each has upgraded or heard that it cannot");
      assert.ok(heard.includes("upgradeError"), "most upgrades come in on another node");
      for (const socket of sockets) assert.deepEqual(await ask(socket, "join", `${room} (second)`), OK);
      await cluster.assertListed(room, ...rows);
      await cluster.assertListed(`${room} (second)`, ...rows);
    });

    test("hears why it is refused", async (t) => {
      const socket = open(t, io, balancer, { id_user: "foo" }, { transports: ["polling"] });
      const refused = new Promise((tell) => socket.once("connect_error", tell));
      assert.match((await within(refused, "it is refused")).message, /^room_missing: \S/);
    });

    for (const [how, end] of [
      ["stopped", async (node) => assert.equal(await node.stop(), 0)],
      ["killed", async (node) => {
        node.process.child.kill("SIGKILL");
        await node.process.code;
      }],
    ]) {
      test(`comes back through the balancer when its node is ${how}, and stays when another one is`, async (t) => {
        const room = roomOf(t);
        const options = { transports: ["polling"], ...AGAIN };
        const sockets = await Promise.all(
          Array.from({ length: MANY }, (_, index) => connect(t, io, balancer, { id_user: `user ${index}`, room }, options)),
        );
        // A client says one thing at a time, so afterwards none is on its way that a node could take with it.
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
        }, "all of them are back, and nobody else is listed");
        for (const [index, heard] of reasons.entries()) {
          assert.ok(heard.every((reason) => reason.startsWith("transport ")), `${heard}`);
          // A poll that waited on a node which was killed is broken, whichever node has its session.
          if (how === "stopped") assert.equal(heard.length, ending.has(before[index]) ? 1 : 0, `${heard}`);
        }
        const next = await cluster.restart(node);
        balancer.nodes = cluster.nodes;
        await until(async () => (await listed(next, room)).length === MANY, "the new node knows them");
      });
    }
  });
}

/** Who is in the room by a node's answer, complete or not. */
async function listed(node, room) {
  const response = await fetch(`http://${node.listen}/${encodeURIComponent(room)}/users`);
  return (await response.json()).toSorted((one, next) => (one.id_socket < next.id_socket ? -1 : 1));
}

describe("socket.io-client 2", () => {
  test("is refused when it begins by polling, and let in over WebSocket", async (t) => {
    const query = { id_user: "foo", room: "two" };
    const refused = new Promise((tell) => open(t, io2, cluster.nodes[0], query).once("connect_error", tell));
    assert.equal((await within(refused, "it is refused")).message, "xhr poll error");
    await cluster.assertListed("two");
    const socket = await connect(t, io2, cluster.nodes[0], query, { transports: ["websocket"] });
    await cluster.assertListed("two", { id_socket: socket.id, id_user: "foo" });
  });
});

for (const program of ["client.py", "async_client.py"]) {
  describe(`python-socketio, ${program}`, () => {
    /** Tells the client what to do. */
    async function start(t) {
      const python = new Process(programs.python, [join(import.meta.dirname, program)]);
      t.after(async () => {
        python.child.stdin.end();
        assert.equal(await python.code, 0, python.stderr);
      });
      let answers = 0;
      return async (order) => {
        python.child.stdin.write(`${JSON.stringify(order)}\n`);
        const nth = answers++;
        const line = () => python.stdout.split("\n").slice(0, -1)[nth];
        return JSON.parse(await python.becomes(line, `answering ${JSON.stringify(order)}`));
      };
    }

    for (const [how, transports] of [["its usual transports", null], ["polling alone", ["polling"]]]) {
      test(`connects with ${how}, to a node and through the balancer`, async (t) => {
        for (const where of [cluster.nodes[1], balancer, balancer, balancer, balancer]) {
          const tell = await start(t);
          const room = `${program}: ${t.name}: ${where.listen}`;
          const url = `http://${where.listen}?${new URLSearchParams({ id_user: "foo", room })}`;
          const { id, transport, error } = await tell({ do: "connect", url, transports });
          assert.match(id ?? error, /^[\w-]{16}$/);
          const upgrades = transports === null && where !== balancer;
          if (upgrades) assert.equal(transport, "websocket");
          const row = { id_socket: id, id_user: "foo" };
          await cluster.assertListed(room, row);
          assert.deepEqual(await tell({ do: "call", event: "join", room: `${room} (second)` }), { ack: OK });
          await cluster.assertListed(`${room} (second)`, row);
          assert.deepEqual(await tell({ do: "disconnect" }), { connected: false });
          await cluster.untilListed(room);
        }
      });
    }
  });
}

test("a node that lets nobody poll refuses polling clients", async (t) => {
  const node = await Node.start({ name: "alone" });
  t.after(() => node.stop());
  const socket = open(t, io4, node, { id_user: "foo", room: "a" });
  const refused = new Promise((tell) => socket.once("connect_error", tell));
  assert.equal((await within(refused, "it is refused")).message, "xhr poll error");
});
