// The official JavaScript clients against nodes with `--identity jwt`: acceptance, refusal, and the expiry of tokens. A
// client reconnects when its application has a new token, over every transport.

import assert from "node:assert/strict";
import { test } from "node:test";

import io2 from "socket.io-client-v2";
import { io as io3 } from "socket.io-client-v3";
import { io as io4 } from "socket.io-client-v4";

import { Node, Redis, rollcall, until, within } from "./cluster.js";
import { Issuer } from "./issuer.js";

const SOON = 5;
const BACK_SOON = { reconnectionDelay: 50, reconnectionDelayMax: 200 };
const withAuth = [
  { name: "socket.io-client 4", io: io4 },
  { name: "socket.io-client 3", io: io3 },
];

/** Two nodes that share a Redis, accept this issuer's tokens, and let any caller call the roll. */
async function pair(t, issuer) {
  const redis = await Redis.start();
  t.after(() => redis.stop());
  const identity = [...issuer.flags, "--api-access", "open"];
  const start = (name) =>
    Node.start({ name, redis: redis.url, identity, more: ["--transports", "websocket,polling"] });
  const nodes = await Promise.all(["north", "south"].map(start));
  t.after(() => Promise.all(nodes.map((node) => node.stop())));
  return nodes;
}

/** The sorted user ids of the room, by any node. */
async function usersOf(node, room) {
  return (await rollcall(node, room)).users.map(({ id_user }) => id_user).sort();
}

test("clients reconnect with a new token when theirs expires", async (t) => {
  const issuer = await Issuer.make(t);
  const nodes = await pair(t, issuer);
  const transports = [["websocket"], ["polling"], ["polling", "websocket"]];
  const cases = withAuth.flatMap((client) => transports.map((transports) => ({ ...client, transports })));
  await Promise.all(
    cases.map(async ({ name, io, transports }, number) => {
      const what = `${name} by ${transports}`;
      const node = nodes[number % nodes.length];
      let asked = 0;
      const auth = (callback) => {
        asked += 1;
        callback({ room: what, token: issuer.token({ sub: `user-${number}` }, asked === 1 ? SOON : undefined) });
      };
      const socket = io(`http://${node.listen}`, { transports, auth, forceNew: true, ...BACK_SOON });
      t.after(() => socket.disconnect());
      const heard = [];
      socket.on("connect", () => heard.push("connect"));
      socket.on("disconnect", (reason) => heard.push(reason));
      socket.on("connect_error", (error) => heard.push(error.message));
      await until(() => heard.length > 0, `${what} is connected`);
      assert.deepEqual(await usersOf(nodes[0], what), [`user-${number}`]);
      const first = socket.id;
      await until(() => heard.filter((event) => event === "connect").length === 2, `${what} is back: ${heard}`);
      const between = heard.slice(1, heard.lastIndexOf("connect"));
      assert.ok(between.length > 0 && between.every((event) => /^transport (close|error)$/.test(event)), `${what}: ${heard}`);
      assert.equal(asked, 2, what);
      assert.notEqual(socket.id, first);
      assert.deepEqual(await usersOf(nodes[1], what), [`user-${number}`], "once, and as before");
    }),
  );
});

test("a client without a new token receives token_expired", async (t) => {
  const issuer = await Issuer.make(t);
  const nodes = await pair(t, issuer);
  for (const { name, io } of withAuth) {
    const token = issuer.token({}, SOON);
    const socket = io(`http://${nodes[0].listen}`, {
      transports: ["websocket"],
      auth: { token, room: "Maths" },
      forceNew: true,
      ...BACK_SOON,
    });
    t.after(() => socket.disconnect());
    const refused = new Promise((done) => socket.on("connect_error", (error) => done(error.message)));
    await until(() => socket.connected, `${name} is connected`);
    assert.match(await within(refused, `${name} is refused`), /^token_expired: \S/);
    assert.deepEqual(await usersOf(nodes[1], "Maths"), []);
  }
});

test("a token in a header needs no payload, and none is read from the query", async (t) => {
  const issuer = await Issuer.make(t);
  const [node] = await pair(t, issuer);
  const token = issuer.token({ rooms: ["Maths"] });
  const clients = [
    { name: "socket.io-client 2", io: io2, refused: "error", read: (error) => error.message ?? error },
    { name: "socket.io-client 3", io: io3, refused: "connect_error", read: (error) => error.message },
    { name: "socket.io-client 4", io: io4, refused: "connect_error", read: (error) => error.message },
  ];
  for (const { name, io, refused, read } of clients) {
    const open = (query, extraHeaders) => {
      const options = { transports: ["websocket"], forceNew: true, reconnection: false, query, extraHeaders };
      // Some versions have a separate option for the headers of each transport.
      if (extraHeaders) options.transportOptions = { websocket: { extraHeaders } };
      const socket = io(`http://${node.listen}`, options);
      t.after(() => socket.disconnect());
      const heard = new Promise((done) => {
        socket.on("connect", () => done("connect"));
        socket.on(refused, (error) => done(read(error)));
      });
      return within(heard, `${name} receives an event`);
    };
    const header = { Authorization: `Bearer ${token}` };
    assert.equal(await open({ room: "Maths" }, header), "connect", name);
    assert.match(await open({ room: "Maths", token, id_user: "foo" }), /^token_missing: /, name);
    assert.match(await open({ room: "Physics" }, header), /^room_forbidden: /, name);
    assert.match(await open({ room: "Maths", id_user: "bar" }, header), /^id_user_forbidden: /, name);
  }
});
