// The official JavaScript clients of Socket.IO 2, 3 and 4 against a cluster of four nodes: connecting, refusals,
// joining and leaving, disconnecting and reconnecting. Every scenario runs with every client that supports it, in its
// own room.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";

import io2 from "socket.io-client-v2";
import { io as io3 } from "socket.io-client-v3";
import { io as io4 } from "socket.io-client-v4";

import { Cluster, rollcall, until, within } from "./cluster.js";

const OK = { ok: true };
const MAX_ROOMS = 64;
const ROUNDS = 50;
const MANY_ROUNDS = 1000;
const UNUSUAL_NAMES = ["café au lait", "a/b", "100%", "🦆 pond 🧑‍🏫", "a+b", "a&b=c", "?x#y", "数学", "..."];

/** `auth`: the client has an auth payload. `refused`: its event for a refusal. `message`: the message of that event. */
const clients = [
  { name: "socket.io-client 4", io: io4, auth: true, refused: "connect_error", message: (error) => error.message },
  { name: "socket.io-client 3", io: io3, auth: true, refused: "connect_error", message: (error) => error.message },
  { name: "socket.io-client 2", io: io2, auth: false, refused: "error", message: (error) => error.message },
];

let cluster;
// Some scenarios send thousands of events at once, which the default limit treats as a flood.
before(async () => (cluster = await Cluster.start({ more: ["--events-per-second", "none"] })));
after(() => cluster.stop());

/** The sockets of one test, which disconnects them at its end. */
class Session {
  constructor(t, client) {
    this.t = t;
    this.client = client;
    this.room = `${client.name}: ${t.name}`;
  }

  /** A socket that is connecting. */
  open(node, query, { auth, namespace = "/", ...options } = {}) {
    const socket = this.client.io(`http://${node.listen}${namespace}`, {
      transports: ["websocket"],
      forceNew: true,
      reconnection: false,
      query,
      ...(this.client.auth && { auth }),
      ...options,
    });
    this.t.after(() => socket.disconnect());
    return socket;
  }

  /** A socket that is connected. */
  async connect(node, query, options) {
    const socket = this.open(node, query, options);
    await this.connected(socket);
    return socket;
  }

  connected(socket) {
    const connecting = new Promise((done, fail) => {
      socket.once("connect", done);
      socket.once(this.client.refused, (error) => fail(new Error(`refused: ${this.client.message(error)}`)));
    });
    return within(connecting, "the client is connected");
  }

  /** The message of the refusal. */
  refusal(node, query, options) {
    const socket = this.open(node, query, options);
    const connecting = new Promise((done, fail) => {
      socket.once(this.client.refused, (error) => done(this.client.message(error)));
      socket.once("connect", () => fail(new Error("the client was accepted")));
    });
    return within(connecting, "the client is refused");
  }

  async assertRefused(code, query, options) {
    const message = await this.refusal(cluster.nodes[0], query, options);
    assert.match(message, new RegExp(`^${code}: \\S`));
    await cluster.assertListed(this.room);
  }
}

const forEveryClient = [
  {
    name: "a connected client is in the roll of every node",
    async run(session) {
      const rows = [];
      for (const [index, node] of cluster.nodes.entries()) {
        const id_user = index < 2 ? "twice" : `user ${index}`;
        const socket = await session.connect(node, { id_user, room: session.room });
        rows.push({ id_socket: socket.id, id_user });
        await cluster.assertListed(session.room, ...rows);
      }
      assert.equal(new Set(rows.map((row) => row.id_socket)).size, cluster.nodes.length);
    },
  },
  {
    name: "the full roll call names the node of each socket",
    async run(session) {
      const [asked, other] = cluster.nodes;
      const here = await session.connect(asked, { id_user: "here", room: session.room });
      const there = await session.connect(other, { id_user: "there", room: session.room });
      const { room, unresolved, nodes, users } = await rollcall(asked, session.room);
      assert.deepEqual({ room, unresolved }, { room: session.room, unresolved: 0 });
      assert.deepEqual(
        users.toSorted((one, next) => (one.id_user < next.id_user ? -1 : 1)),
        [
          { id_socket: here.id, id_user: "here", node: asked.name },
          { id_socket: there.id, id_user: "there", node: other.name },
        ],
      );
      for (const { name } of [asked, other]) {
        const { vouched, error } = nodes.find((node) => node.name === name);
        assert.deepEqual({ vouched, error }, { vouched: 1, error: null }, name);
      }
    },
  },
  {
    name: "a client without a valid user is refused",
    async run(session) {
      const { room } = session;
      await session.assertRefused("id_user_missing", { room });
      await session.assertRefused("id_user_invalid", { room, id_user: "" });
      await session.assertRefused("id_user_invalid", { room, id_user: "two\nlines" });
      await session.assertRefused("id_user_invalid", { room, id_user: "x".repeat(257) });
    },
  },
  {
    name: "a client without a valid room is refused",
    async run(session) {
      await session.assertRefused("room_missing", { id_user: "foo" });
      await session.assertRefused("room_invalid", { id_user: "foo", room: "" });
      await session.assertRefused("room_invalid", { id_user: "foo", room: "socket.io" });
      await session.assertRefused("room_invalid", { id_user: "foo", room: "é".repeat(129) });
    },
  },
  {
    name: "a refused client can connect later",
    async run(session) {
      await session.assertRefused("id_user_missing", { room: session.room });
      const socket = await session.connect(cluster.nodes[0], { id_user: "foo", room: session.room });
      await cluster.assertListed(session.room, { id_socket: socket.id, id_user: "foo" });
    },
  },
  {
    name: "an acknowledged join or leave is in the roll of every node",
    async run(session) {
      const [first, second] = [session.room, `${session.room} (second)`];
      const socket = await session.connect(cluster.nodes[1], { id_user: "foo", room: first });
      const row = { id_socket: socket.id, id_user: "foo" };
      assert.deepEqual(await ask(socket, "join", second), OK);
      await cluster.assertListed(second, row);
      assert.deepEqual(await ask(socket, "join", second), OK, "joining again changes nothing");
      await cluster.assertListed(second, row);
      assert.deepEqual(await ask(socket, "leave", first), OK);
      await cluster.assertListed(first);
      assert.deepEqual(await ask(socket, "leave", first), OK, "leaving again changes nothing");
      assert.deepEqual(await ask(socket, "leave", second), OK, "a socket may be in no room");
      await cluster.assertListed(second);
      assert.deepEqual(await ask(socket, "join", first), OK);
      await cluster.assertListed(first, row);
    },
  },
  {
    name: "an invalid room is refused in the acknowledgement",
    async run(session) {
      const socket = await session.connect(cluster.nodes[2], { id_user: "foo", room: session.room });
      for (const event of ["join", "leave"]) {
        for (const wrong of [[""], ["_"], ["a\u0000b"], ["x".repeat(257)], [17], [null], [["Maths"]], []]) {
          assertRefusedAck(await ask(socket, event, ...wrong), "room_invalid");
        }
      }
      await cluster.assertListed(session.room, { id_socket: socket.id, id_user: "foo" });
    },
  },
  {
    name: "a socket can be in 64 rooms, but not in 65",
    async run(session) {
      const rooms = Array.from({ length: MAX_ROOMS + 1 }, (_, index) => `${session.room} (${index})`);
      const last = rooms.at(-1);
      const socket = await session.connect(cluster.nodes[3], { id_user: "foo", room: rooms[0] });
      const row = { id_socket: socket.id, id_user: "foo" };
      for (const room of rooms.slice(1, MAX_ROOMS)) assert.deepEqual(await ask(socket, "join", room), OK);
      assertRefusedAck(await ask(socket, "join", last), "rooms_too_many");
      await cluster.assertListed(last);
      await cluster.assertListed(rooms[MAX_ROOMS - 1], row);
      assert.deepEqual(await ask(socket, "leave", rooms[0]), OK);
      assert.deepEqual(await ask(socket, "join", last), OK);
      await cluster.assertListed(last, row);
    },
  },
  {
    name: "concurrent joins and leaves take effect in order",
    async run(session) {
      const [home, left, joined] = ["home", "left", "joined"].map((end) => `${session.room} (${end})`);
      const socket = await session.connect(cluster.nodes[0], { id_user: "foo", room: home });
      await alternate(socket, ["join", "leave"], left, ROUNDS);
      await cluster.assertListed(left);
      await alternate(socket, ["leave", "join"], joined, ROUNDS);
      await cluster.assertListed(joined, { id_socket: socket.id, id_user: "foo" });
    },
  },
  {
    name: "every one of many concurrent events is acknowledged",
    async run(session) {
      const [home, joined] = ["home", "joined"].map((end) => `${session.room} (${end})`);
      const socket = await session.connect(cluster.nodes[0], { id_user: "foo", room: home });
      await alternate(socket, ["leave", "join"], joined, MANY_ROUNDS);
      await cluster.assertListed(joined, { id_socket: socket.id, id_user: "foo" });
    },
  },
  {
    name: "events sent in the connect handler are not lost",
    async run(session) {
      const second = `${session.room} (second)`;
      const rows = await Promise.all(
        Array.from({ length: ROUNDS }, async (_, index) => {
          const node = cluster.nodes[index % cluster.nodes.length];
          const id_user = `user ${index}`;
          const socket = session.open(node, { id_user, room: session.room });
          const acks = new Promise((done, fail) => {
            socket.once(session.client.refused, (error) => fail(new Error(session.client.message(error))));
            socket.once("connect", () => {
              done(Promise.all([ask(socket, "join", second), ask(socket, "leave", session.room)]));
            });
          });
          assert.deepEqual(await within(acks, "both events are acknowledged"), [OK, OK]);
          return { id_socket: socket.id, id_user };
        }),
      );
      await cluster.assertListed(second, ...rows);
      await cluster.assertListed(session.room);
    },
  },
  {
    name: "only the client that disconnects is removed on every node",
    async run(session) {
      const query = (id_user) => ({ id_user, room: session.room });
      const goes = await session.connect(cluster.nodes[0], query("goes"));
      const stays = await session.connect(cluster.nodes[0], query("stays"));
      const [going, staying] = [
        { id_socket: goes.id, id_user: "goes" },
        { id_socket: stays.id, id_user: "stays" },
      ];
      await cluster.assertListed(session.room, going, staying);
      goes.disconnect();
      await cluster.untilListed(session.room, staying);
      assert.equal(stays.connected, true);
    },
  },
  {
    name: "a client whose connection breaks is removed on every node",
    async run(session) {
      const socket = await session.connect(cluster.nodes[1], { id_user: "foo", room: session.room });
      await cluster.assertListed(session.room, { id_socket: socket.id, id_user: "foo" });
      socket.io.engine.transport.ws.terminate();
      await cluster.untilListed(session.room);
    },
  },
  {
    name: "users and rooms may have unusual names",
    async run(session) {
      for (const name of UNUSUAL_NAMES) {
        const socket = await session.connect(cluster.nodes[0], { id_user: name, room: name });
        const row = { id_socket: socket.id, id_user: name };
        await cluster.assertListed(name, row);
        const joined = `${name} ${session.client.name}`;
        assert.deepEqual(await ask(socket, "join", joined), OK);
        await cluster.assertListed(joined, row);
        assert.deepEqual(await ask(socket, "leave", name), OK);
        await cluster.assertListed(name);
      }
    },
  },
  {
    name: "a client reconnects when its stopped node is restarted",
    async run(session) {
      const node = cluster.nodes[3];
      const again = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
      const socket = await session.connect(node, { id_user: "foo", room: session.room }, again);
      const old = { id_socket: socket.id, id_user: "foo" };
      await cluster.assertListed(session.room, old);
      const reasons = [];
      socket.on("disconnect", (reason) => reasons.push(reason));

      assert.equal(await node.stop(), 0);
      await until(() => reasons.length > 0, "the client notices the closed connection");
      assert.deepEqual(reasons, ["transport close"]);
      // An attempt before the node listens again fails, and the client tries once more.
      const back = until(() => socket.connected, "the client is connected again");
      await Promise.all([cluster.restart(node), back]);

      assert.notEqual(socket.id, old.id_socket);
      await cluster.assertListed(session.room, { id_socket: socket.id, id_user: "foo" });
      assert.deepEqual(reasons, ["transport close"]);
    },
  },
];

const forClientsWithAuth = [
  {
    name: "each key of the auth payload overrides the query",
    async run(session) {
      const [asked, one, two] = ["query", "one", "two"].map((end) => `${session.room} (${end})`);
      const query = { id_user: "query", room: asked };
      const connect = async (auth) => (await session.connect(cluster.nodes[0], query, { auth })).id;
      const user = { id_socket: await connect({ id_user: "auth" }), id_user: "auth" };
      const room = { id_socket: await connect({ room: one }), id_user: "query" };
      const both = { id_socket: await connect({ id_user: "auth", room: [one, two] }), id_user: "auth" };
      const neither = { id_socket: await connect({ unrelated: 17 }), id_user: "query" };
      await cluster.assertListed(asked, user, neither);
      await cluster.assertListed(one, room, both);
      await cluster.assertListed(two, both);
    },
  },
  {
    name: "the auth payload is enough without a query",
    async run(session) {
      const auth = { id_user: "foo", room: session.room };
      const socket = await session.connect(cluster.nodes[0], {}, { auth });
      await cluster.assertListed(session.room, { id_socket: socket.id, id_user: "foo" });
    },
  },
  {
    name: "a wrong auth payload is refused despite a valid query",
    async run(session) {
      const { room } = session;
      const query = { id_user: "foo", room };
      await session.assertRefused("id_user_invalid", query, { auth: { id_user: 17 } });
      await session.assertRefused("id_user_invalid", query, { auth: { id_user: "" } });
      await session.assertRefused("room_missing", query, { auth: { room: [] } });
      await session.assertRefused("room_invalid", query, { auth: { room: [room, 17] } });
      await session.assertRefused("room_invalid", query, { auth: { room: [room, "socket.io"] } });
    },
  },
  {
    name: "a client may connect with 64 rooms, but not with 65",
    async run(session) {
      const more = Array.from({ length: MAX_ROOMS }, (_, index) => `${session.room} (${index})`);
      await session.assertRefused("rooms_too_many", { id_user: "foo" }, { auth: { room: [session.room, ...more] } });
      const auth = { room: [session.room, ...more.slice(1)] };
      const socket = await session.connect(cluster.nodes[0], { id_user: "foo" }, { auth });
      const row = { id_socket: socket.id, id_user: "foo" };
      await cluster.assertListed(session.room, row);
      await cluster.assertListed(more.at(-1), row);
    },
  },
  {
    name: "other namespaces are refused",
    async run(session) {
      const query = { id_user: "foo", room: session.room };
      assert.equal(await session.refusal(cluster.nodes[0], query, { namespace: "/other" }), "Invalid namespace");
      await cluster.assertListed(session.room);
    },
  },
];

/** Emits an event. Returns its acknowledgement. */
function ask(socket, event, ...values) {
  const acknowledged = new Promise((done) => socket.emit(event, ...values, done));
  return within(acknowledged, `${event} is acknowledged`);
}

/** Emits the events in turns, without waiting, and asserts that all are acknowledged. */
async function alternate(socket, events, room, rounds) {
  let acknowledged = 0;
  const asked = Array.from({ length: rounds }, () => events).flat();
  for (const event of asked) {
    socket.emit(event, room, (ack) => {
      assert.deepEqual(ack, OK);
      acknowledged += 1;
    });
  }
  await until(() => acknowledged === asked.length, `${asked.length} events are acknowledged`);
}

function assertRefusedAck(ack, code) {
  const { message, ...rest } = ack;
  assert.deepEqual(rest, { ok: false, code });
  assert.match(message, /\S/);
}

for (const client of clients) {
  describe(client.name, () => {
    const scenarios = client.auth ? [...forEveryClient, ...forClientsWithAuth] : forEveryClient;
    for (const scenario of scenarios) test(scenario.name, (t) => scenario.run(new Session(t, client)));
  });
}
