/**
 * Makes turnqueue.cjs, a CommonJS module with turnqueue.js and the parser that turnqueue.js imports. Copies the
 * declarations for this module. npm runs this script before it packs.
 */

import fs from "node:fs";

const file = (name) => new URL(name, import.meta.url);
const source = fs.readFileSync(file("turnqueue.js"), "utf8");
const exported = /^export (?=(?:class|function|async function) (\w+))/gm;
const names = Array.from(source.matchAll(exported), ([, name]) => name);
const parser = ["errors.js", "parse.js"].map((name) => fs.readFileSync(file(`vendor/eventsource-parser/${name}`), "utf8"));
const inlined = parser.map((text) => text.replace(/^(?:import .*|export |\/\/# source.*)/gm, "")).join("\n");
const parserImport = 'import { createParser } from "./vendor/eventsource-parser/parse.js";';
const body = source
  .replace(exported, "")
  .replace(parserImport, () => `const createParser = (() => {\n${inlined}\nreturn createParser;\n})();`);
if (/^(?:export|import)\b/m.test(body)) throw new Error("turnqueue.js has an export or import that build.js does not know.");
fs.writeFileSync(file("turnqueue.cjs"), `"use strict";\n\n${body}\nmodule.exports = { ${names.join(", ")} };\n`);
fs.copyFileSync(file("turnqueue.d.ts"), file("turnqueue.d.cts"));
