// The units of `deploy/systemd`, started as systemd would: with their own command lines, environment and credentials.
// Only what it provides is put in its place: the specifiers, the folder of the credentials, and another loopback address,
// so that all ports stay as they are.

import assert from "node:assert/strict";
import { mkdir, copyFile, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";

import { Process, programs } from "../clients/cluster.js";

const SOURCE = resolve(import.meta.dirname, "../../deploy/systemd");
const UNITS = ["rollcall@.service", "rollcall@.service.d/jwt.conf"];

/** What a unit and its drop-ins say in [Service], key by key: all values, in their order. */
export async function service() {
  const said = new Map();
  for (const unit of UNITS) {
    for (const line of (await readFile(join(SOURCE, unit), "utf8")).split("\n")) {
      const [, key, value] = /^([A-Z]\w+)=(.*)$/.exec(line) ?? [];
      if (key) said.set(key, [...(said.get(key) ?? []), value]);
    }
  }
  return said;
}

/** One instance. `etc`: what is in /etc/rollcall; `place`: puts addresses in their place. */
export async function startInstance(said, instance, { etc, folder, place }) {
  const credentials = join(folder, `credentials-${instance}`);
  await mkdir(credentials);
  for (const credential of said.get("LoadCredential")) {
    const [id, path] = credential.split(":");
    await copyFile(path.replace("/etc/rollcall", etc), join(credentials, id));
  }
  const expand = (text) => {
    const expanded = text.replaceAll("%i", instance).replaceAll("%l", "host").replaceAll("%d", credentials);
    assert.doesNotMatch(expanded, /%/, "a specifier that is not known here");
    return place(expanded);
  };
  const assignments = said.get("Environment").map(expand);
  for (const file of said.get("EnvironmentFile")) {
    const text = await readFile(file.replace("/etc/rollcall", etc), "utf8");
    assignments.push(...text.split("\n").filter((line) => /^\w+=/.test(line)).map(place));
  }
  const env = Object.fromEntries(assignments.map((line) => /^(\w+)=(.*)$/.exec(line).slice(1)));
  const [program, ...args] = expand(said.get("ExecStart")[0]).split(" ");
  assert.equal(program, "/usr/local/bin/rollcall");
  return new Process(programs.rollcall, args, env);
}
