// An issuer of tokens: a secret in a file for the nodes, and tokens that expire when a test needs it.

import { createHmac, randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** The clock tolerance of a node for expired tokens, in seconds. */
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

  /** The flags of a node that accepts its tokens. */
  get flags() {
    return ["--identity", "jwt", "--jwt-key", this.file];
  }

  /** A token that every node refuses after this number of seconds. */
  token(claims = {}, seconds = HOUR) {
    const exp = Math.floor(Date.now() / 1000) + seconds - LEEWAY;
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const text = `${part({ alg: "HS256" })}.${part({ sub: "foo", exp, ...claims })}`;
    return `${text}.${createHmac("sha256", this.secret).update(text).digest("base64url")}`;
  }
}
