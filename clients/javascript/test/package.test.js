/** What `npm pack` would put into the package. ../consumers/check installs it. */

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import { createRequire } from "node:module";
import { test } from "node:test";

import * as module from "../turnqueue.js";
import { answers, RESULT, serve, succeeded } from "./support.js";

const file = (name) => new URL(`../${name}`, import.meta.url);
const text = (name) => fs.readFileSync(file(name), "utf8");
const description = JSON.parse(text("package.json"));

test("the CommonJS module is the same client", async (t) => {
  execFileSync(process.execPath, [file("build.js").pathname]);
  const required = createRequire(import.meta.url)("../turnqueue.cjs");
  assert.deepEqual(Object.keys(required).sort(), Object.keys(module).sort());
  const { url } = await serve(t, answers(succeeded()));
  assert.deepEqual(await required.createClient({ baseUrl: url }).chat({ message: "Hello" }), RESULT);
  await assert.rejects(required.sendChatMessage({ message: "Hello" }), { code: "not_configured" });
  assert.equal(text("turnqueue.d.cts"), text("turnqueue.d.ts"));
});

test("every file that package.json names is there and would be packed", () => {
  const named = [description.main, description.types, ...Object.values(description.exports["."]).flatMap(Object.values)];
  for (const name of named) assert.ok(description.files.includes(name.slice(2)), name);
  for (const name of [...description.files, "README.md", "LICENSE"]) assert.ok(fs.existsSync(file(name)), name);
});

test("the changelog and the README tell of this version", () => {
  assert.equal(/^## (\S+)/m.exec(text("CHANGELOG.md"))[1], description.version);
  assert.ok(text("README.md").includes(`turnqueue-${description.version}.tgz`));
});
