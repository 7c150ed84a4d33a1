import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { test } from "node:test";

const FILE = "src/codes.ts";

/** Without it, a code that the server gives would be unknown to the type checker. */
test("the codes are those of docs/errors.md", () => {
  const table = readFileSync("../../docs/errors.md", "utf8").matchAll(/^\| `([a-z-]+)` \| \d+ \|/gm);
  const codes = Array.from(table, ([, code]) => code!).sort();
  assert.ok(codes.length > 40);
  const lines = codes.map((code) => `  | "${code}"`).join("\n");
  const text =
    "// Generated from docs/errors.md: SLOTD_UPDATE_DOCS=1 npm test\n\n" +
    `/** The codes of the server's errors. */\nexport type ServerCode =\n${lines};\n`;
  if (process.env.SLOTD_UPDATE_DOCS) writeFileSync(FILE, text);
  assert.equal(readFileSync(FILE, "utf8"), text, `${FILE} is not current: SLOTD_UPDATE_DOCS=1 npm test`);
});
