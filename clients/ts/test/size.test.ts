import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { gzipSync } from "node:zlib";

const BYTES_MAX = 8 * 1024;

/** Without it, the library would grow by what nobody asked for. */
test("the library has less than 8 KB, minified and compressed, and imports nothing", () => {
  const code = readFileSync(new URL("../slotd.js", import.meta.url));
  const size = gzipSync(code, { level: 9 }).length;
  console.log(`${size} bytes`);
  assert.ok(size < BYTES_MAX, `${size} bytes`);
  assert.doesNotMatch(code.toString(), /\bimport\b/);
});
