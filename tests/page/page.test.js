// The front page and the room page in a real browser, against a whole cluster. A room page lists
// the current users, escapes every name, and reports no errors. Saves screenshots in artifacts/.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { after, afterEach, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import { io } from "socket.io-client-v4";
import { arrived, Browser, Cluster, eventually, get, shownOn, usersOf } from "./harness.js";

const ARTIFACTS = new URL("../../artifacts/", import.meta.url);
const LAPTOP = { viewport: { width: 1280, height: 800 }, colorScheme: "light" };
const PHONE = {
  viewport: { width: 390, height: 844 },
  colorScheme: "dark",
  deviceScaleFactor: 2,
  isMobile: true,
  hasTouch: true,
};

const STOPPED_WITHIN_MS = 3_000;
const GONE_WITHIN_MS = 3_000;

let browser;
let cluster;

before(async () => {
  browser = await Browser.launch();
  cluster = await Cluster.start();
});

after(async () => {
  await browser?.close();
  await cluster?.stop();
});

afterEach(async () => {
  await browser.clear();
  assert.deepEqual(browser.takeErrors(), [], "a page reported errors");
});

function visitRoom(room, user, options) {
  return visitRoomOf(cluster, room, user, options);
}

function visitRoomOf({ origin }, room, user, options) {
  return browser.visit(`${origin}/${encodeURIComponent(room)}?id_user=${encodeURIComponent(user)}`, options);
}

test("the form on the front page leads to the room page, and a link leads back", async () => {
  const page = await browser.visit(cluster.origin);
  await page.fill("input[name=room]", "Maths");
  await page.fill("input[name=id_user]", "foo");
  await page.click("button[type=submit]");
  await page.waitForURL(`${cluster.origin}/Maths?id_user=foo`);
  const shown = await arrived(page);
  assert.deepEqual(shown.rows, [{ socket: shown.socket, user: "foo", you: true, text: "foo", node: shown.node }]);

  await page.getByRole("link", { name: "Change room or name" }).click();
  await page.waitForURL(`${cluster.origin}/?room=Maths&id_user=foo`);
  assert.equal(await page.inputValue("input[name=room]"), "Maths");
  assert.equal(await page.inputValue("input[name=id_user]"), "foo");
});

test("the form on the front page reports missing fields", async () => {
  const page = await browser.visit(cluster.origin);
  await page.click("button[type=submit]");
  assert.match(await page.textContent("#room-fault"), /Which room/);
  await page.fill("input[name=room]", "Maths");
  await page.click("button[type=submit]");
  assert.match(await page.textContent("#id_user-fault"), /Who are you/);
  assert.equal(page.url(), `${cluster.origin}/`);
});

test("two visitors of a room see each other, and the REST answer is the same", async () => {
  const foo = await visitRoom("Maths", "foo");
  const bar = await visitRoom("Maths", "bar");
  const { socket: socketOfFoo, node: nodeOfFoo } = await arrived(foo);
  const { socket: socketOfBar, node: nodeOfBar } = await arrived(bar);
  assert.notEqual(socketOfFoo, socketOfBar);

  const rowOfFoo = { socket: socketOfFoo, user: "foo", text: "foo", node: nodeOfFoo };
  const rowOfBar = { socket: socketOfBar, user: "bar", text: "bar", node: nodeOfBar };
  const both = { state: "connected", count: "2 people · 2 sockets", complete: "true" };
  await eventually(async () => {
    assert.deepEqual(await shownOn(foo), {
      ...both,
      socket: socketOfFoo,
      node: nodeOfFoo,
      rows: [{ ...rowOfBar, you: false }, { ...rowOfFoo, you: true }],
    });
    assert.deepEqual(await shownOn(bar), {
      ...both,
      socket: socketOfBar,
      node: nodeOfBar,
      rows: [{ ...rowOfBar, you: true }, { ...rowOfFoo, you: false }],
    });
  });

  assert.deepEqual(cluster.nodes, ["node-1", "node-2", "node-3", "node-4"]);
  assert.ok(cluster.nodes.includes(nodeOfFoo), nodeOfFoo);
  assert.ok(cluster.nodes.includes(nodeOfBar), nodeOfBar);
  const users = await usersOf(cluster.origin, "Maths");
  assert.deepEqual(
    users.map(({ id_user, id_socket }) => [id_user, id_socket]).sort(),
    [["bar", socketOfBar], ["foo", socketOfFoo]],
  );
});

test("a visitor who closes the browser leaves the roll of the others", async () => {
  const foo = await visitRoom("Maths", "foo");
  const bar = await visitRoom("Maths", "bar");
  await arrived(bar);
  await eventually(async () => assert.equal((await shownOn(foo)).rows.length, 2));

  await bar.context().close();
  await eventually(async () => {
    const { rows, count, complete } = await shownOn(foo);
    assert.deepEqual(rows.map(({ user }) => user), ["foo"]);
    assert.equal(count, "1 person · 1 socket");
    assert.equal(complete, "true");
  }, GONE_WITHIN_MS);
  assert.deepEqual((await usersOf(cluster.origin, "Maths")).map(({ id_user }) => id_user), ["foo"]);
});

test("a user with two tabs is one person with two sockets", async () => {
  const one = await visitRoom("Maths", "foo");
  const two = await one.context().newPage();
  await two.goto(one.url());
  await arrived(two);
  await eventually(async () => {
    const { count, rows } = await shownOn(one);
    assert.equal(count, "1 person · 2 sockets");
    assert.equal(rows.filter(({ you }) => you).length, 1);
  });
});

for (const name of ["a/b", "café", "<b>x</b>"]) {
  test(`the name ${name} works for rooms and for users, and stays text`, async () => {
    const page = await browser.visit(cluster.origin);
    await page.fill("input[name=room]", name);
    await page.fill("input[name=id_user]", name);
    await page.click("button[type=submit]");
    const encoded = encodeURIComponent(name);
    await page.waitForURL(`${cluster.origin}/${encoded}?id_user=${encoded}`);

    const { socket, rows } = await arrived(page);
    assert.deepEqual(rows.map(({ user, text }) => ({ user, text })), [{ user: name, text: name }]);
    assert.equal(await page.textContent("#room-name"), name);
    assert.equal(await page.textContent("#my-name"), name);
    assert.equal(await page.title(), `(1) ${name} · Rollcall`);
    assert.equal(await page.locator("b").count(), 0);
    assert.deepEqual(await usersOf(cluster.origin, name), [{ id_socket: socket, id_user: name }]);
  });
}

test("the curl line requests the same room", async () => {
  const page = await visitRoom("a/b & 'c'", "foo");
  const { socket } = await arrived(page);
  const [, address] = /^curl -k (https:\S+)$/.exec(await page.textContent("#curl"));
  assert.deepEqual(JSON.parse((await get(address)).body), [{ id_socket: socket, id_user: "foo" }]);
});

test("a room page without a user asks for the user", async () => {
  const page = await browser.visit(`${cluster.origin}/Maths`);
  const form = page.locator("form#ask");
  await form.waitFor();
  assert.equal(await page.getByTestId("state").isVisible(), false);
  assert.deepEqual(await usersOf(cluster.origin, "Maths"), []);

  await form.locator("button").click();
  assert.match(await page.textContent("#id_user-fault"), /Who are you/);
  await form.locator("input[name=id_user]").fill("foo");
  await form.locator("button").click();
  await page.waitForURL(`${cluster.origin}/Maths?id_user=foo`);
  const { rows } = await arrived(page);
  assert.deepEqual(rows.map(({ user, you }) => ({ user, you })), [{ user: "foo", you: true }]);
});

test("without TLS the page works over plain http", async (t) => {
  const plain = await Cluster.start("--tls", "off");
  t.after(() => plain.stop());
  assert.match(plain.origin, /^http:/);

  const page = await visitRoomOf(plain, "Maths", "foo");
  const { socket } = await arrived(page);
  assert.deepEqual(await usersOf(plain.origin, "Maths"), [{ id_socket: socket, id_user: "foo" }]);
  assert.equal(await page.textContent("#curl"), `curl ${plain.origin}/Maths/users`);
});

test("a connected page reports that Ctrl-C ended the cluster", async (t) => {
  const pair = await Cluster.start("--nodes", "2");
  t.after(() => pair.stop());
  assert.deepEqual(pair.nodes, ["node-1", "node-2"]);
  const page = await visitRoomOf(pair, "Maths", "foo");
  const { node } = await arrived(page);
  assert.ok(pair.nodes.includes(node), node);
  assert.deepEqual(browser.takeErrors(), []);

  const { code, signal, took } = await pair.interrupt();
  assert.deepEqual({ code, signal }, { code: 0, signal: null });
  assert.ok(took < STOPPED_WITHIN_MS, `stopping took ${Math.round(took)} ms`);

  await eventually(async () => {
    const { state, rows } = await shownOn(page);
    assert.equal(state, "reconnecting");
    assert.deepEqual(rows.map(({ user }) => user), ["foo"]);
    assert.ok(await page.getByText("stale", { exact: true }).isVisible());
  });
  await browser.clear();
  // The browser itself reports the failed requests; there are no other errors.
  for (const error of browser.takeErrors()) assert.match(error, /net::ERR_|^WebSocket connection to /);
});

test("the pages fit a laptop and a phone", async (t) => {
  await mkdir(ARTIFACTS, { recursive: true });
  const others = ["Ada", "Blaise", "Emmy", "Sofja", "Évariste"].map((id_user) =>
    io(cluster.origin, {
      auth: { room: "Maths", id_user },
      transports: ["websocket"],
      forceNew: true,
      rejectUnauthorized: false,
    }),
  );
  t.after(() => others.forEach((socket) => socket.disconnect()));
  const laptop = await visitRoom("Maths", "foo", LAPTOP);
  const phone = await visitRoom("Maths", "bar", PHONE);
  const front = await browser.visit(cluster.origin, LAPTOP);

  for (const page of [laptop, phone]) {
    await eventually(async () => {
      const { count, complete } = await arrived(page);
      assert.equal(count, "7 people · 7 sockets");
      assert.equal(complete, "true");
    });
  }
  for (const [name, page] of Object.entries({ "room-laptop": laptop, "room-phone": phone, "front-laptop": front })) {
    await page.screenshot({ path: fileURLToPath(new URL(`${name}.png`, ARTIFACTS)), animations: "disabled" });
    const fits = await page.evaluate(() => {
      const { scrollWidth, clientWidth } = document.documentElement;
      return scrollWidth <= clientWidth;
    });
    assert.ok(fits, `${name} is wider than its window`);
  }
});
