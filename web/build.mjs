// Bundles the scripts and styles of the pages into dist/. The licences of bundled packages require a copy of their
// terms. So the terms are collected from the files in each bundle, and written at the head of the file.

import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const OUT = "dist";

await rm(OUT, { recursive: true, force: true });
await mkdir(OUT);

const { metafile, outputFiles } = await build({
  entryPoints: ["src/room.ts", "src/front.ts", "src/operator.ts"],
  outdir: OUT,
  bundle: true,
  minify: true,
  format: "esm",
  platform: "browser",
  target: "es2020",
  legalComments: "none",
  metafile: true,
  write: false,
});

for (const [path, { inputs }] of Object.entries(metafile.outputs)) {
  const file = outputFiles.find((output) => output.path.endsWith(path));
  const licences = await licencesOf(Object.keys(inputs));
  const text = licences + file.text;
  await writeFile(path, text);
  console.log(`${path}  ${(text.length / 1024).toFixed(1)} KiB`);
}

async function licencesOf(inputs) {
  const packages = new Set();
  for (const input of inputs) {
    const found = /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(input);
    if (found) packages.add(found[1]);
  }
  if (packages.size === 0) return "";

  const holders = [];
  let terms = "";
  for (const name of [...packages].sort()) {
    const root = `node_modules/${name}`;
    const { version, license } = JSON.parse(await readFile(`${root}/package.json`, "utf8"));
    // One copy of the terms is enough only while they are equal.
    if (license !== "MIT") throw new Error(`${name} is under ${license}, not MIT: its notice needs a place`);
    const text = await readFile(`${root}/LICENSE`, "utf8");
    const holder = /^Copyright .*$/m.exec(text);
    if (!holder) throw new Error(`${root}/LICENSE names no copyright holder`);
    holders.push(`${name} ${version}: ${holder[0].trim()}`);
    terms = text.slice(holder.index + holder[0].length).trim();
  }
  return `/*!\n${holders.join("\n")}\n\nThe MIT License\n\n${terms}\n*/\n`;
}
