// Whoever issues tokens in the tests: a secret in a file for the nodes, and tokens that are over when the test says.

import { createHmac, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** For so long a token counts after it has expired, in seconds. */
const LEEWAY = 30;
const HOUR = 3600;

export class Issuer {
  static async make(t) {
    const folder = await mkdtemp(join(tmpdir(), "rollcall-issuer-"));
    t.after(() => rm(folder, { recursive: true, force: true }));
    const issuer = new Issuer(randomBytes(48).toString("base64"), join(folder, "jwt.key"));
    await writeFile(issuer.file, `${issuer.secret}\n`);
    return issuer;
  }

  constructor(secret, file) {
    this.secret = secret;
    this.file = file;
  }

  /** The flags of a node that takes its tokens. */
  get flags() {
    return ["--identity", "jwt", "--jwt-key", this.file];
  }

  /** A token that nobody takes any more in so many seconds. */
  token(claims = {}, seconds = HOUR) {
    const exp = Math.floor(Date.now() / 1000) + seconds - LEEWAY;
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${part({ alg: "HS256" })}.${part({ sub: "foo", exp, ...claims })}`;
    return `${text}.${createHmac("sha256", this.secret).update(text).digest("base64url")}`;
  }
}
