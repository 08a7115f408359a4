// The operators' page in a real browser, against real nodes. It lists the nodes and their states, draws their roll
// calls, names a node that does not respond, and obeys its own content security policy.

import assert from "node:assert/strict";
import http from "node:http";
import { mkdir, mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client-v4";

import { Cluster, Node, get } from "../clients/cluster.js";
import { Browser, eventually } from "./harness.js";

const ARTIFACTS = new URL("../../artifacts/", import.meta.url);
const TOKEN = "an-operator-of-this-cluster";
/** A bucket of roll calls, and a second until the page asks again. */
const CHART_TIMEOUT_MS = 20_000;
/** A lease, and the time of the requests. */
const REMOVAL_TIMEOUT_MS = 20_000;

let browser;
let cluster;
let sockets = [];

before(async () => {
  browser = await Browser.launch();
  cluster = await Cluster.start();
  const { status } = await get(cluster.nodes[0].admin, "/_/assets/operator.js");
  assert.equal(status, 200, "the binary contains no page: run `npm run build` in web/, then build it again");
  sockets = await Promise.all(
    ["Ada", "Blaise", "Emmy"].map(async (id_user, index) => {
      const room = index === 0 ? ["Maths", "<b>x</b>"] : ["Maths"];
      const { listen } = cluster.nodes[index];
      const options = { transports: ["websocket"], forceNew: true, auth: { id_user, room } };
      const socket = io(`http://${listen}`, options);
      await new Promise((done, fail) => socket.once("connect", done).once("connect_error", fail));
      return socket;
    }),
  );
});

after(async () => {
  sockets.forEach((socket) => socket.disconnect());
  await browser?.close();
  await cluster?.stop();
});

afterEach(async () => {
  await browser.clear();
  assert.deepEqual(browser.takeErrors(), [], "a page reported errors");
});

function visit({ admin }, options) {
  return browser.visit(`http://${admin}/_/`, options);
}

/** The table of nodes: name, state, sockets. */
function nodesOn(page) {
  return page.getByTestId("nodes").locator("tbody tr").evaluateAll((rows) =>
    rows.map((row) => ({
      name: row.querySelector(".name").textContent,
      state: row.querySelector(".state").textContent,
      sockets: row.querySelector(".sockets").textContent,
    })),
  );
}

/** The number of pixels of a chart in the colour of its first line. */
function drawn(page, chart) {
  return page.getByTestId(chart).evaluate((figure) => {
    const [red, green, blue] = getComputedStyle(figure)
      .getPropertyValue("--accent")
      .trim()
      .match(/[0-9a-f]{2}/g)
      .map((part) => parseInt(part, 16));
    const canvas = figure.querySelector("canvas");
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let found = 0;
    for (let at = 0; at < data.length; at += 4) {
      found += data[at] === red && data[at + 1] === green && data[at + 2] === blue && data[at + 3] === 255 ? 1 : 0;
    }
    return found;
  });
}

test("the page lists the nodes, the rooms, and the users of a room", async () => {
  const page = await visit(cluster.nodes[3]);
  await eventually(async () => {
    assert.equal(await page.textContent("#summary"), "4 of 4 nodes respond and are active · 3 sockets");
    assert.deepEqual(await nodesOn(page), [
      { name: "east", state: "healthy", sockets: "1" },
      { name: "north", state: "healthy", sockets: "1" },
      { name: "south", state: "healthy", sockets: "1" },
      { name: "west", state: "healthy", sockets: "0" },
    ]);
    const rooms = await page.getByTestId("rooms").locator("tbody tr").allInnerTexts();
    assert.deepEqual(rooms.map((row) => row.split(/\s+/)), [["Maths", "3", "3"], ["<b>x</b>", "1", "1"]]);
  });
  assert.equal(await page.locator("[data-asked] .name").textContent(), "west");
  assert.equal(await page.locator("b").count(), 0, "a name is only text");

  await page.getByRole("button", { name: "<b>x</b>" }).click();
  await eventually(async () => {
    assert.match(await page.getByTestId("said").textContent(), /^<b>x<\/b>: 1 person, 1 socket; complete/);
    assert.match(await page.getByTestId("users").locator("tbody tr").innerText(), /^Ada\s+\S{16}\s+north$/);
  });
  await page.fill("#room", "_");
  await page.getByRole("button", { name: "Call the roll" }).click();
  assert.match(await page.textContent("#room-fault"), /\S/);
});

test("charts and text show the roll calls of the cluster and of one node", async () => {
  const page = await visit(cluster.nodes[0], { colorScheme: "light" });
  const label = (chart) => page.getByTestId(chart).locator(".plot").getAttribute("aria-label");
  const choose = (label) => page.getByTestId("of").selectOption({ label });
  const none = /half within: none now, none at most/;
  await choose("south");
  await eventually(async () => assert.match(await label("latency"), none));
  assert.equal(await drawn(page, "latency"), 0, "no roll call, no line");

  await choose("the whole cluster");
  for (let turn = 0; turn < 50; turn++) await get(cluster.nodes[1].listen, "/Maths/users");
  await eventually(async () => {
    assert.match(await label("rate"), /all: .* at most/);
    assert.doesNotMatch(await label("rate"), /all: \S+ now, 0\.0\/s at most/);
    assert.match(await label("latency"), /99 in 100 within: .*[1-9].* ms at most/);
    assert.ok((await drawn(page, "rate")) > 20);
    assert.ok((await drawn(page, "latency")) > 5);
  }, CHART_TIMEOUT_MS);

  await choose("south");
  await eventually(async () => assert.match(await label("latency"), none));
  await choose("east");
  await eventually(async () => assert.match(await label("latency"), /half within: .* ms at most/));
});

test("a dead node is listed as not responding until it is removed", async () => {
  const page = await visit(cluster.nodes[0]);
  const extra = await Node.start({ name: "extra", redis: cluster.redis.url });
  const row = async () => (await nodesOn(page)).find(({ name }) => name === "extra");
  await eventually(async () => assert.equal((await row())?.state, "healthy"));

  extra.process.child.kill("SIGKILL");
  await eventually(async () => {
    assert.equal((await row()).state, "not responding");
    assert.match(await page.locator("[data-node=extra] .state-more").textContent(), /connection refused|connection lost/);
    assert.equal(await page.textContent("#summary"), "4 of 5 nodes respond and are active · 3 sockets");
    assert.match(await page.title(), /^\(!\)/);
  });
  await eventually(async () => {
    assert.equal((await row()).state, "gone");
    assert.equal(await page.textContent("#summary"), "4 of 4 nodes respond and are active · 3 sockets");
  }, REMOVAL_TIMEOUT_MS);
});

test("the page keeps its content while its node is unreachable", async (t) => {
  const proxy = await Door.open(t, cluster.nodes[0].admin);
  const page = await browser.visit(`${proxy.origin}/_/`);
  await eventually(async () => assert.equal(await page.getByTestId("state").textContent(), "live"));
  proxy.shut = true;
  await eventually(async () => {
    assert.equal(await page.getByTestId("state").textContent(), "stale");
    const fault = await page.getByTestId("fault").textContent();
    assert.match(fault, /cannot be reached\. This is how it was at .* Trying again every/);
    assert.equal((await nodesOn(page)).length, 4);
  });
  proxy.shut = false;
  await eventually(async () => {
    assert.equal(await page.getByTestId("state").textContent(), "live");
    assert.equal(await page.getByTestId("fault").isVisible(), false);
  }, REMOVAL_TIMEOUT_MS);
  // The browser itself reports the failed requests; there are no other errors.
  for (const error of browser.takeErrors()) assert.match(error, /net::ERR_/);
});

test("the page asks for a required token, and sends it in no address", async (t) => {
  const file = join(await mkdtemp(join(tmpdir(), "rollcall-operator-")), "tokens");
  await writeFile(file, `someone: ${TOKEN}\n`);
  const guarded = await Node.start({ name: "guarded", redis: cluster.redis.url, more: ["--admin-token-file", file] });
  t.after(() => guarded.stop());
  const page = await visit(guarded);
  const requested = [];
  page.on("request", (request) => requested.push(request.url()));
  await eventually(async () => {
    assert.equal(await page.getByTestId("state").textContent(), "away");
    assert.match(await page.getByTestId("fault").textContent(), /Unauthorized: pass a token.*#token=<your token>/);
  });
  await page.evaluate((token) => (location.hash = `token=${token}`), TOKEN);
  await eventually(async () => assert.equal((await nodesOn(page)).length, 5));
  await page.locator(".room-name").first().click();
  await eventually(async () => assert.match(await page.getByTestId("said").textContent(), /^Maths: 3 people/));
  assert.ok(requested.length > 0 && requested.every((url) => !url.includes(TOKEN)), "it is in no address that is sent");
  for (const error of browser.takeErrors()) assert.match(error, /status of 401/);
});

test("the page fits laptops and phones, and Tab reaches every control", async () => {
  await mkdir(ARTIFACTS, { recursive: true });
  for (const [name, width, height, colorScheme] of [["laptop", 1280, 800, "light"], ["phone", 320, 700, "dark"]]) {
    const page = await visit(cluster.nodes[0], { viewport: { width, height }, colorScheme });
    await eventually(async () => assert.equal((await nodesOn(page)).length, 4));
    const path = fileURLToPath(new URL(`operator-${name}.png`, ARTIFACTS));
    await page.screenshot({ path, animations: "disabled" });
    const fits = await page.evaluate(() => {
      const { scrollWidth, clientWidth } = document.documentElement;
      return scrollWidth <= clientWidth;
    });
    assert.ok(fits, `${name} is wider than its window`);
    const reached = new Set();
    for (let step = 0; step < 8; step++) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.className));
    }
    for (const control of ["of", "room-name", "room", "button"]) {
      assert.ok(reached.has(control), `${control}: ${[...reached]}`);
    }
  }
});

/** A proxy of an admin port, which can be closed. */
class Door {
  shut = false;

  static async open(t, admin) {
    const door = new Door();
    const server = http.createServer((request, response) => {
      if (door.shut) return request.socket.destroy();
      const passed = http.get(`http://${admin}${request.url}`, (answer) => {
        response.writeHead(answer.statusCode, answer.headers);
        answer.pipe(response);
      });
      passed.on("error", () => request.socket.destroy());
    });
    await new Promise((done) => server.listen(0, "127.0.0.1", done));
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
    door.origin = `http://127.0.0.1:${server.address().port}`;
    return door;
  }
}
