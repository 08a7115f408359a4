// A client that is turned away at its handshake, because there are too many of its address or connections in all, comes
// back by itself: every official JavaScript client takes it for a transport that failed. One that is refused because its
// user has too many sockets is told so, and does not come back.

import assert from "node:assert/strict";
import net from "node:net";
import { after, before, describe, test } from "node:test";

import io2 from "socket.io-client-v2";

import { Node, get, until, users } from "./cluster.js";
import { clients } from "./official.js";

/** A client, for as long as its test, and what it was told in place of being connected. */
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
  // Version 2 says it by another event when it is the middleware that refuses.
  if (io === io2) socket.on("error", (error) => seen.errors.push(error.message));
  return seen;
}

/** One that is let in. */
async function letIn(t, node, client, user) {
  const seen = connect(t, node, client, user);
  await until(() => seen.socket.connected, `${user} is connected`);
  return seen;
}

async function turnedAwayAndBack(t, node, client) {
  const first = await letIn(t, node, clients[0], "first");
  const second = connect(t, node, client, "second");
  await until(() => second.errors.length >= 2, "the second was turned away, and again");
  assert.equal(second.socket.connected, false);
  first.socket.disconnect();
  await until(() => second.socket.connected, "the second is connected");
  await until(async () => {
    const rows = await users(node, "a");
    return JSON.stringify(rows) === JSON.stringify([{ id_socket: second.socket.id, id_user: "second" }]);
  }, "it is listed");
  second.socket.disconnect();
}

describe("one client of an address", () => {
  let node;
  before(async () => {
    const more = ["--transports", "websocket,polling", "--trusted-proxy", "none", "--sockets-per-address", "1"];
    node = await Node.start({ name: "one-client", more });
  });
  after(() => node.stop());

  for (const client of clients) {
    test(`${client.name} is told 429 and comes back by itself`, (t) => turnedAwayAndBack(t, node, client));
  }
});

describe("one handshake of an address each second", () => {
  let node;
  before(async () => {
    const more = ["--transports", "websocket,polling", "--handshakes-per-second", "1:1"];
    node = await Node.start({ name: "one-handshake", more });
  });
  after(() => node.stop());

  for (const client of clients) {
    test(`${client.name} is told 429 and comes back by itself`, async (t) => {
      const both = [connect(t, node, client, "first"), connect(t, node, client, "second")];
      await until(() => both.every(({ socket }) => socket.connected), "both are connected");
      assert.ok(both.some(({ errors }) => errors.length > 0), "one of them came too early");
    });
  }
});

describe("two connections in all", () => {
  let node;
  before(async () => (node = await Node.start({ name: "two-connections", more: ["--connections", "2"] })));
  after(() => node.stop());

  for (const client of clients.filter(({ transport }) => transport === "websocket")) {
    test(`${client.name} is told 503 and comes back by itself`, async (t) => {
      await letIn(t, node, clients[0], "other");
      const first = await letIn(t, node, clients[0], "first");
      const second = connect(t, node, client, "second");
      await until(() => second.errors.length >= 2, "the second was turned away, and again");
      first.socket.disconnect();
      await until(() => second.socket.connected, "the second is connected");
    });
  }
});

describe("more probes than there are", () => {
  let node;
  before(async () => (node = await Node.start({ name: "probed" })));
  after(() => node.stop());

  test("are told 503, and neither clients nor the next probe are concerned", async (t) => {
    const [host, port] = node.admin.split(":");
    const idle = Array.from({ length: 128 }, () => net.connect(Number(port), host).on("error", () => {}));
    t.after(() => idle.forEach((socket) => socket.destroy()));
    const answer = await until(async () => {
      const answer = await get(node.admin, "/livez");
      return answer.status === 503 && answer;
    }, "one more is told so");
    assert.equal(answer.headers["retry-after"], "1");
    await letIn(t, node, clients[0], "foo");
    idle.forEach((socket) => socket.destroy());
    await until(async () => (await get(node.admin, "/readyz")).status === 200, "probes are answered");
  });
});

describe("one socket of a user", () => {
  let node;
  before(async () => {
    const more = ["--transports", "websocket,polling", "--sockets-per-user", "1"];
    node = await Node.start({ name: "one-socket", more });
  });
  after(() => node.stop());

  for (const client of clients) {
    test(`${client.name} is told sockets_too_many`, async (t) => {
      const first = await letIn(t, node, client, client.name);
      const second = connect(t, node, client, client.name);
      await until(() => second.errors.length > 0, "the second is refused");
      assert.match(second.errors[0], /^sockets_too_many: /);
      assert.equal(second.socket.connected, false);
    });
  }
});
