// The paths of the programs that only these tests need.

import { existsSync } from "node:fs";

/** The path on Debian, which is not in the `PATH` of every user. */
const DEBIAN = "/usr/sbin/haproxy";

export const haproxy = { path: existsSync(DEBIAN) ? DEBIAN : "haproxy", hint: "install HAProxy" };
