// The units of `deploy/systemd`, started as systemd does: with their command lines, environment and credentials. Only
// the parts of systemd are replaced: the specifiers, the folder of credentials, and the loopback address, so that all
// ports stay the same.

import assert from "node:assert/strict";
import { mkdir, copyFile, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";

import { Process, programs } from "../clients/cluster.js";

const SOURCE = resolve(import.meta.dirname, "../../deploy/systemd");
const UNITS = ["rollcall@.service", "rollcall@.service.d/jwt.conf"];

/** The settings of [Service] in a unit and its drop-ins: all values of each key, in their order. */
export async function service() {
  const settings = new Map();
  for (const unit of UNITS) {
    for (const line of (await readFile(join(SOURCE, unit), "utf8")).split("\n")) {
      const [, key, value] = /^([A-Z]\w+)=(.*)$/.exec(line) ?? [];
      if (key) settings.set(key, [...(settings.get(key) ?? []), value]);
    }
  }
  return settings;
}

/** Starts one instance. `etc`: the folder that replaces /etc/rollcall. `replaceAddresses`: replaces addresses. */
export async function startInstance(settings, instance, { etc, folder, replaceAddresses }) {
  const credentials = join(folder, `credentials-${instance}`);
  await mkdir(credentials);
  for (const credential of settings.get("LoadCredential")) {
    const [id, path] = credential.split(":");
    await copyFile(path.replace("/etc/rollcall", etc), join(credentials, id));
  }
  const expand = (text) => {
    const expanded = text.replaceAll("%i", instance).replaceAll("%l", "host").replaceAll("%d", credentials);
    assert.doesNotMatch(expanded, /%/, "an unknown specifier");
    return replaceAddresses(expanded);
  };
  const assignments = settings.get("Environment").map(expand);
  for (const file of settings.get("EnvironmentFile")) {
    const text = await readFile(file.replace("/etc/rollcall", etc), "utf8");
    assignments.push(...text.split("\n").filter((line) => /^\w+=/.test(line)).map(replaceAddresses));
  }
  const env = Object.fromEntries(assignments.map((line) => /^(\w+)=(.*)$/.exec(line).slice(1)));
  const [program, ...args] = expand(settings.get("ExecStart")[0]).split(" ");
  assert.equal(program, "/usr/local/bin/rollcall");
  return new Process(programs.rollcall, args, env);
}
