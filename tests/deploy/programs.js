// Where the programs are that only these tests need.

import { existsSync } from "node:fs";

/** Where Debian has it, which is not on everybody's path. */
const DEBIAN = "/usr/sbin/haproxy";

export const haproxy = { path: existsSync(DEBIAN) ? DEBIAN : "haproxy", hint: "install HAProxy" };
