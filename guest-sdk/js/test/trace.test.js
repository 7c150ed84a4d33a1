// A trace that names the bundle's lines helps nobody.

import assert from "node:assert/strict";
import { test } from "node:test";
import { format } from "../src/format.js";
import { describe, setMap } from "../src/trace.js";

test("places are those of the sources", () => {
    // Generated line 2: columns 0 and 4 are src/a.ts 10:1 and 10:5; line 3 is the SDK's.
    setMap({ sources: ["src/a.ts", ""], mappings: ";AASA,IAAI;ACAJ" });
    const error = new TypeError("oh");
    error.stack = [
        "    at f (componentize-qjs:user.js:2:1)",
        "    at g (componentize-qjs:user.js:2:7)",
        "    at settle (componentize-qjs:user.js:3:1)",
        "    at push (native)",
    ].join("\n");
    assert.equal(describe(error), "TypeError: oh; at f (src/a.ts:10:1); at g (src/a.ts:10:5)");
    const outer = new Error("outer", { cause: error });
    outer.stack = "";
    assert.match(describe(outer), /^Error: outer; caused by TypeError: oh; at f/);
    setMap(undefined);
});

test("anything can be thrown, and printed", () => {
    assert.match(describe("text"), /no Error was thrown: text/);
    assert.match(describe(undefined), /undefined/);
    assert.match(describe({ a: 1 }), /\{"a":1\}/);
    assert.ok(describe(new Error("x".repeat(100_000))).length < 2048);
    const circle = { name: "c", list: [1, "two", 3n, null, undefined] };
    circle.self = circle;
    const printed = format(["a", circle, new Map([["k", new Set([1])]]), Uint8Array.of(1, 2)]);
    assert.ok(printed.startsWith('a { name: "c", list: [1, "two", 3n, null, undefined], self: { '), printed);
    assert.ok(printed.endsWith('Map { "k" => Set { 1 } } Uint8Array [1, 2]'), printed);
});
