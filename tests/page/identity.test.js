// The room page of a node with `--identity jwt`: it takes the token from the fragment of its address, and says what is
// missing without one.

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
  assert.ok(requested.length > 0 && requested.every((url) => !url.includes(token)), "the token is in no requested address");
  assert.deepEqual(browser.takeErrors(), []);
});

test("without a token the page explains how to pass one, and uses it", async (t) => {
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
  // The browser itself reports the refused request; there are no other errors.
  for (const error of browser.takeErrors()) assert.match(error, /status of 401/);
});

test("a token without the roll connects, and the page explains the refusal", async (t) => {
  const { issuer, origin } = await start(t);
  const page = await browser.visit(`${origin}/Maths#token=${issuer.token()}`);
  await eventually(async () => {
    assert.equal((await shownOn(page)).state, "connected");
    assert.match(await page.textContent("#fault"), /Forbidden: this token does not cover the roll/);
  });
  for (const error of browser.takeErrors()) assert.match(error, /status of 403/);
});
