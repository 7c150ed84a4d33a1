// Whole numbers of 64 bits are what ids and amounts are made of: a digit that is lost is somebody's.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse, parseBytes, stringify, stringifyBytes } from "../src/json.js";
import { character } from "../src/utf8.js";

test("whole numbers are exact", () => {
    const text = '{"a":18446744073709551615,"b":[-9223372036854775808,9007199254740991,1.5,1e3],"c":"18446744073709551615"}';
    const value = parse(text);
    assert.deepEqual(value, {
        a: 18446744073709551615n,
        b: [-9223372036854775808n, 9007199254740991, 1.5, 1000],
        c: "18446744073709551615",
    });
    assert.equal(stringify(value), text.replace("1e3", "1000"));
    assert.equal(parse("9007199254740993"), 9007199254740993n);
    assert.equal(stringify(7n), "7");
    assert.equal(parse("1e30"), 1e30, "it is not written as a whole number");
    assert.equal(parse('"\\"12345678901234567890"'), '"12345678901234567890');
});

// What is read as something else than was stored is found by the next message, too late.
test("what would not come back as it was is refused", () => {
    const circle = { a: 1 };
    const hole = [1, , 3];
    for (const value of [NaN, Infinity, -Infinity, { a: [1, { b: NaN }] }, new Map([[1, 2]]), { a: new Set() },
        new Uint8Array(2), [new ArrayBuffer(1)], /x/, [undefined], hole, { a: () => 1 }, { a: Symbol("s") }]) {
        assert.throws(() => stringifyBytes(value), TypeError, String(value));
    }
    const shared = { deep: [circle, circle] };
    for (const value of [null, 0, -0.5, "NaN", 2n ** 70n, { a: undefined, b: [null] }, shared, new Date(0), [[], {}]]) {
        assert.deepEqual(parseBytes(stringifyBytes(value)), parse(stringify(value)));
    }
    // In state such a number would come back as a BigInt, and `n + 1` would throw; clients may have it.
    for (const value of [2 ** 53, [-(2 ** 60)], { a: 1e20 }]) {
        assert.throws(() => stringifyBytes(value, true), /write a BigInt/);
        assert.equal(new TextDecoder().decode(stringifyBytes(value)), JSON.stringify(value));
    }
    for (const value of [2n ** 53n, 2 ** 53 - 1, 1e21, -1e300]) {
        assert.deepEqual(parseBytes(stringifyBytes(value, true)), value);
    }
    assert.equal(stringifyBytes(undefined), undefined);
    let deep = 1;
    for (let i = 0; i < 100_000; i++) deep = { a: deep };
    assert.throws(() => stringifyBytes(deep), RangeError);
    const wide = Object.fromEntries(Array.from({ length: 300_000 }, (_, i) => [`k${i}`, i]));
    assert.equal(parseBytes(stringifyBytes(wide)).k299999, 299999);
});

test("what JSON has no form for is said as ever", () => {
    assert.equal(stringify(undefined), undefined);
    const circle = [];
    circle.push(circle);
    assert.throws(() => stringify(circle), TypeError);
    assert.throws(() => parse("{"), SyntaxError);
});

test("characters are read as TextDecoder reads them", () => {
    const read = (bytes) => {
        let out = "";
        for (let i = 0; i < bytes.length; ) {
            const [point, length] = character(bytes, i);
            out += String.fromCodePoint(point);
            i += length;
        }
        return out;
    };
    let random = 7;
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const pieces = [0x00, 0x41, 0x7f, 0x80, 0xbf, 0xc0, 0xc2, 0xdf, 0xe0, 0xa0, 0xed, 0x9f, 0xef, 0xbb, 0xf0, 0x90, 0xf4, 0x8f, 0xf5, 0xff];
    for (let i = 0; i < 5000; i++) {
        const bytes = Uint8Array.from({ length: 8 }, () => {
            random = (random * 48271) % 2147483647;
            return pieces[random % pieces.length];
        });
        assert.equal(read(bytes), decoder.decode(bytes), String(bytes));
    }
});
