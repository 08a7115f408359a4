// The limits and the official JavaScript clients. A client that is rejected at its handshake, because of too many
// clients of its address or too many connections, reconnects: every official client treats this as a transport error. A
// client of a user with too many sockets receives an error, and does not reconnect.

import assert from "node:assert/strict";
import net from "node:net";
import { after, before, describe, test } from "node:test";

import io2 from "socket.io-client-v2";

import { Node, get, until, users } from "./cluster.js";
import { clients } from "./official.js";

/** Connects a client for the duration of the test, and collects its errors. */
function connect(t, node, { io, transport }, user) {
  const socket = io(`http://${node.listen}/`, {
    transports: [transport],
    forceNew: true,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    query: { id_user: user, room: "a" },
  });
  t.after(() => socket.disconnect());
  const seen = { socket, errors: [] };
  socket.on("connect_error", (error) => seen.errors.push(error.message));
  // Version 2 uses another event when the middleware refuses the client.
  if (io === io2) socket.on("error", (error) => seen.errors.push(error.message));
  return seen;
}

/** Connects a client that must be accepted. */
async function connectAccepted(t, node, client, user) {
  const seen = connect(t, node, client, user);
  await until(() => seen.socket.connected, `${user} is connected`);
  return seen;
}

async function rejectedThenConnected(t, node, client) {
  const first = await connectAccepted(t, node, clients[0], "first");
  const second = connect(t, node, client, "second");
  await until(() => second.errors.length >= 2, "the second was rejected twice");
  assert.equal(second.socket.connected, false);
  first.socket.disconnect();
  await until(() => second.socket.connected, "the second is connected");
  await until(async () => {
    const rows = await users(node, "a");
    return JSON.stringify(rows) === JSON.stringify([{ id_socket: second.socket.id, id_user: "second" }]);
  }, "it is listed");
  second.socket.disconnect();
}

describe("a limit of one client per address", () => {
  let node;
  before(async () => {
    const more = ["--transports", "websocket,polling", "--trusted-proxy", "none", "--sockets-per-address", "1"];
    node = await Node.start({ name: "one-client", more });
  });
  after(() => node.stop());

  for (const client of clients) {
    test(`${client.name} reconnects after 429`, (t) => rejectedThenConnected(t, node, client));
  }
});

describe("a limit of one handshake per second and address", () => {
  let node;
  before(async () => {
    const more = ["--transports", "websocket,polling", "--handshakes-per-second", "1:1"];
    node = await Node.start({ name: "one-handshake", more });
  });
  after(() => node.stop());

  for (const client of clients) {
    test(`${client.name} reconnects after 429`, async (t) => {
      const both = [connect(t, node, client, "first"), connect(t, node, client, "second")];
      await until(() => both.every(({ socket }) => socket.connected), "both are connected");
      assert.ok(both.some(({ errors }) => errors.length > 0), "one of them was rejected first");
    });
  }
});

describe("a limit of two connections", () => {
  let node;
  before(async () => (node = await Node.start({ name: "two-connections", more: ["--connections", "2"] })));
  after(() => node.stop());

  for (const client of clients.filter(({ transport }) => transport === "websocket")) {
    test(`${client.name} reconnects after 503`, async (t) => {
      await connectAccepted(t, node, clients[0], "other");
      const first = await connectAccepted(t, node, clients[0], "first");
      const second = connect(t, node, client, "second");
      await until(() => second.errors.length >= 2, "the second was rejected twice");
      first.socket.disconnect();
      await until(() => second.socket.connected, "the second is connected");
    });
  }
});

describe("more probe connections than the limit", () => {
  let node;
  before(async () => (node = await Node.start({ name: "probed" })));
  after(() => node.stop());

  test("receive 503, and do not affect clients and later probes", async (t) => {
    const [host, port] = node.admin.split(":");
    const idle = Array.from({ length: 128 }, () => net.connect(Number(port), host).on("error", () => {}));
    t.after(() => idle.forEach((socket) => socket.destroy()));
    const answer = await until(async () => {
      const answer = await get(node.admin, "/livez");
      return answer.status === 503 && answer;
    }, "one more receives 503");
    assert.equal(answer.headers["retry-after"], "1");
    await connectAccepted(t, node, clients[0], "foo");
    idle.forEach((socket) => socket.destroy());
    await until(async () => (await get(node.admin, "/readyz")).status === 200, "probes are answered");
  });
});

describe("a limit of one socket per user", () => {
  let node;
  before(async () => {
    const more = ["--transports", "websocket,polling", "--sockets-per-user", "1"];
    node = await Node.start({ name: "one-socket", more });
  });
  after(() => node.stop());

  for (const client of clients) {
    test(`${client.name} receives sockets_too_many`, async (t) => {
      const first = await connectAccepted(t, node, client, client.name);
      const second = connect(t, node, client, client.name);
      await until(() => second.errors.length > 0, "the second is refused");
      assert.match(second.errors[0], /^sockets_too_many: /);
      assert.equal(second.socket.connected, false);
    });
  }
});
