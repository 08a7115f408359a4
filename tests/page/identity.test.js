// The page against a node that takes tokens: with one behind the `#` of its address it is a page like any other, and
// without one it says what is missing.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { Node } from "../clients/cluster.js";
import { Issuer } from "../clients/issuer.js";
import { arrived, Browser, eventually, shownOn } from "./harness.js";

let browser;
before(async () => (browser = await Browser.launch()));
after(() => browser?.close());

async function start(t) {
  const issuer = await Issuer.make(t);
  const node = await Node.start({ name: "north", identity: issuer.flags });
  t.after(() => node.stop());
  t.after(() => browser.clear());
  return { issuer, origin: `http://${node.listen}` };
}

test("with a token the page needs no name, and shows the roll", async (t) => {
  const { issuer, origin } = await start(t);
  const token = issuer.token({ sub: "foo", roll_call: ["Maths"] });
  const page = await browser.visit(`${origin}/Maths#token=${token}`);
  const requested = [];
  page.on("request", (request) => requested.push(request.url()));
  const { rows } = await arrived(page);
  assert.deepEqual(rows.map(({ user, you }) => ({ user, you })), [{ user: "foo", you: true }]);
  assert.equal(await page.textContent("#my-name"), "foo");
  const line = await page.textContent("#curl");
  assert.equal(line, `curl -H "Authorization: Bearer $TOKEN" ${origin}/Maths/users`);

  await page.getByRole("link", { name: "Change room or name" }).click();
  await page.waitForURL(`${origin}/?room=Maths#token=${token}`);
  assert.equal(await page.locator("input[name=id_user]").isVisible(), false);
  await page.click("button[type=submit]");
  await page.waitForURL(`${origin}/Maths#token=${token}`);
  await arrived(page);
  assert.ok(requested.length > 0 && requested.every((url) => !url.includes(token)), "it is in no address that is sent");
  assert.deepEqual(browser.takeComplaints(), []);
});

test("without a token the page says how to pass one, and does so once it is there", async (t) => {
  const { issuer, origin } = await start(t);
  const page = await browser.visit(`${origin}/Maths?id_user=foo`);
  await eventually(async () => {
    assert.equal((await shownOn(page)).state, "refused");
    assert.match(await page.textContent("#note"), /wants a token.*#token=<your token>/);
    assert.match(await page.textContent("#fault"), /Unauthorized: pass a token/);
  });
  const token = issuer.token({ sub: "bar", roll_call: ["*"] });
  await page.evaluate((token) => (location.hash = `token=${token}`), token);
  await eventually(async () => assert.deepEqual((await arrived(page)).rows.map(({ user }) => user), ["bar"]));
  // A browser reports by itself that it was refused; there is nothing else to complain about.
  for (const complaint of browser.takeComplaints()) assert.match(complaint, /status of 401/);
});

test("a token that covers the room and not its roll gets in, and the page says what it may not", async (t) => {
  const { issuer, origin } = await start(t);
  const page = await browser.visit(`${origin}/Maths#token=${issuer.token()}`);
  await eventually(async () => {
    assert.equal((await shownOn(page)).state, "connected");
    assert.match(await page.textContent("#fault"), /Forbidden: this token does not cover the roll/);
  });
  for (const complaint of browser.takeComplaints()) assert.match(complaint, /status of 403/);
});
