// Whole numbers of 64 bits are what ids and amounts are made of: a digit that is lost is somebody's.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parse, stringify } from "../src/json.js";
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
