// A node that is cut off from Redis and from its peers disconnects its clients. The official JavaScript clients then
// reconnect through their balancer to an active node.

import assert from "node:assert/strict";
import net from "node:net";
import { after, before, describe, test } from "node:test";

import { Balancer } from "./balancer.js";
import { Node, Redis, get, until, users } from "./cluster.js";
import { clients } from "./official.js";

/** A TCP proxy: each connection goes to the next target, or is reset while the proxy is cut. */
class Proxy {
  static async start(...targets) {
    const proxy = new Proxy();
    Object.assign(proxy, { targets, cut: false, turn: 0, open: new Set() });
    proxy.server = net.createServer((caller) => proxy.carry(caller));
    await new Promise((done, fail) => proxy.server.once("error", fail).listen(0, "127.0.0.1", done));
    proxy.address = `127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  carry(caller) {
    caller.on("error", () => {});
    if (this.cut || this.targets.length === 0) {
      caller.resetAndDestroy();
      return;
    }
    const [host, port] = this.targets[this.turn++ % this.targets.length].split(":");
    const callee = net.connect(Number(port), host);
    for (const [one, other] of [[caller, callee], [callee, caller]]) {
      this.open.add(one);
      one.setNoDelay().pipe(other);
      one.on("error", () => other.destroy()).on("close", () => {
        this.open.delete(one);
        other.destroy();
      });
    }
  }

  setCut(cut) {
    this.cut = cut;
    if (cut) for (const socket of this.open) socket.resetAndDestroy();
  }

  stop() {
    this.setCut(true);
    this.server.close();
  }
}

describe("a node that is cut off from Redis and its peers", () => {
  let redis;
  let stays;
  let lonely;
  let balancer;
  let polled;
  const proxies = [];
  const proxy = async (...targets) => {
    proxies.push(await Proxy.start(...targets));
    return proxies.at(-1);
  };

  before(async () => {
    redis = await Redis.start();
    const launch = async (name) => {
      const [mesh, toRedis] = [await proxy(), await proxy(`127.0.0.1:${redis.port}`)];
      const more = ["--lease", "2s", "--mesh-advertise", mesh.address, "--transports", "websocket,polling"];
      const node = await Node.launch({ name, redis: `redis://${toRedis.address}`, more });
      mesh.targets.push(node.mesh);
      return Object.assign(node, { links: { mesh, toRedis } });
    };
    lonely = await launch("lonely");
    stays = await launch("stays");
    await Promise.all([lonely.ready(), stays.ready()]);
  });
  after(async () => {
    await Promise.all([lonely.stop(), stays.stop()]);
    await redis.stop();
    await polled?.stop();
    for (const proxy of [...proxies, balancer]) proxy.stop();
  });

  test("its clients reconnect to an active node", async (t) => {
    // Each client reaches the lonely node first, and the next node of the balancer when it reconnects.
    balancer = await Proxy.start(lonely.listen);
    polled = await Balancer.start([lonely]);
    const sockets = clients.map(({ name, io, transport }) => {
      const address = transport === "polling" ? polled.listen : balancer.address;
      const socket = io(`http://${address}/`, {
        transports: [transport],
        forceNew: true,
        reconnectionDelay: 50,
        reconnectionDelayMax: 200,
        query: { id_user: name, room: "a" },
      });
      t.after(() => socket.disconnect());
      const seen = { name, socket, transport, reasons: [] };
      socket.on("disconnect", (reason) => seen.reasons.push(reason));
      return seen;
    });
    await until(() => sockets.every(({ socket }) => socket.connected), "all clients are connected");
    const ids = sockets.map(({ socket }) => socket.id);
    assert.deepEqual((await users(stays, "a")).map((row) => row.id_socket), ids.toSorted());
    balancer.targets.push(stays.listen);
    polled.nodes.push(stays);

    for (const link of [lonely.links.mesh, lonely.links.toRedis, stays.links.mesh]) link.setCut(true);
    const isBack = ({ socket }, number) => socket.connected && socket.id !== ids[number];
    await until(() => sockets.every(isBack), "all clients have reconnected");
    const expected = sockets.map(({ name, socket }) => ({ id_socket: socket.id, id_user: name }));
    const byId = (one, next) => (one.id_socket < next.id_socket ? -1 : 1);
    const listed = async () => JSON.stringify(await users(stays, "a")) === JSON.stringify(expected.toSorted(byId));
    await until(listed, "the other node lists all of them completely");
    for (const { name, transport, reasons } of sockets) {
      // A polling client sees a failed request instead of a close. It may see two, because every other request reaches
      // a node that cannot reach the node of the session.
      const heard = transport === "websocket" ? reasons.join() : [...new Set(reasons)].join();
      const expected = transport === "websocket" ? "transport close" : "transport error";
      assert.equal(heard, expected, `${name} would not have reconnected after another reason`);
    }
    const rejected = await get(lonely.listen, "/socket.io/?EIO=4&transport=websocket&id_user=x&room=a");
    assert.equal(rejected.status, 503, rejected.body);

    for (const link of [lonely.links.mesh, lonely.links.toRedis, stays.links.mesh]) link.setCut(false);
    await lonely.ready();
    const atBoth = async () => JSON.stringify(await users(lonely, "a")) === JSON.stringify(expected.toSorted(byId));
    await until(atBoth, "the reconnected node lists them too");
  });
});
