import assert from "node:assert/strict";
import { test } from "node:test";
import { decode, encode, shaped } from "../src/body.js";
import { type ServerSent, parser } from "../src/sse.js";
import { Tokens, expiryOf } from "../src/token.js";
import { jitter } from "../src/wait.js";
import { jwt } from "./standin.js";

/** Pieces end where the network likes it. */
test("an event stream is read the same however it is cut", () => {
  const text = ': hello\r\nretry: 1000\r\n\r\nid: 1.0-aa\nevent: line\ndata: {"a":\ndata: 1}\n\ndata:x\r\rid\ndata\n\nevent: none\n\n';
  const whole: ServerSent[] = [];
  parser((event) => whole.push(event))(text);
  assert.deepEqual(whole, [
    { id: "1.0-aa", event: "line", data: '{"a":\n1}' },
    { event: "", data: "x" },
  ]);
  for (let at = 1; at < text.length; at++) {
    const cut: ServerSent[] = [];
    const feed = parser((event) => cut.push(event));
    feed(text.slice(0, at));
    feed(text.slice(at));
    assert.deepEqual(cut, whole, `cut at ${at}`);
    const small: ServerSent[] = [];
    const bytes = parser((event) => small.push(event));
    for (const character of text) bytes(character);
    assert.deepEqual(small, whole);
  }
});

test("bodies are JSON, and bytes and text where they say so", () => {
  const text = (body: unknown, type?: string) => {
    const { bytes, contentType } = encode(body, type);
    return [new TextDecoder().decode(bytes), contentType];
  };
  assert.deepEqual(text({ a: 1 }), ['{"a":1}', "application/json"]);
  assert.deepEqual(text("hi"), ['"hi"', "application/json"]);
  assert.deepEqual(text("hi", "text/plain"), ["hi", "text/plain"]);
  assert.deepEqual(text(new Uint8Array([104, 105])), ["hi", "application/octet-stream"]);
  assert.deepEqual(text(new Uint8Array([0, 104, 105]).subarray(1), "x/y"), ["hi", "x/y"]);
  assert.throws(() => encode(undefined), TypeError);
  const changing = new Uint8Array([1]);
  const { bytes } = encode(changing);
  changing[0] = 2;
  assert.equal(bytes[0], 1);
  assert.deepEqual(decode(bytes, "application/octet-stream"), bytes);
  assert.deepEqual(decode(encode({ a: 1 }).bytes, "application/vnd.x+json; charset=utf-8"), { a: 1 });
  assert.equal(decode(encode("hi", "text/plain").bytes, "text/plain"), "hi");
  assert.deepEqual(shaped({ time_ms: 1, body_base64: "aGk=", next: { in_it: 1 } }), {
    timeMs: 1,
    body: new Uint8Array([104, 105]),
    next: { in_it: 1 },
  });
});

/** Without jitter, all clients of a node that has died would come back at the same moment. */
test("pauses are anything up to a bound that doubles", () => {
  const most = (failures: number) => Math.max(...Array.from({ length: 2_000 }, () => jitter(failures, { base: 100, max: 1_000 })));
  for (const [failures, bound] of [[0, 100], [1, 200], [3, 800], [4, 1_000], [4_000, 1_000]] as const) {
    const value = most(failures);
    assert.ok(value <= bound && value > bound * 0.9, `${failures}: ${value}`);
  }
});

test("when a JWT ends is read, and what is no JWT has no end", () => {
  assert.equal(expiryOf(jwt({ exp: 1_700_000_000, sub: "zoë~~?>" })), 1_700_000_000_000);
  for (const token of ["", "slotd_x", "a.b.c", jwt({}), jwt({ exp: "1" })]) assert.equal(expiryOf(token), Infinity, token);
});

test("a token is asked for once, whoever wants it, and again before its end or when it was refused", async () => {
  let asked = 0;
  let life = 100_000;
  const tokens = new Tokens(async () => {
    await Promise.resolve();
    return { token: `t${++asked}`, expiresAt: Date.now() + life };
  });
  const first = await Promise.all([tokens.get(), tokens.get(), tokens.get()]);
  assert.deepEqual(first, ["t1", "t1", "t1"]);
  const left = tokens.renewAt - Date.now();
  assert.ok(left > 75_000 && left <= 80_000, `${left}`);
  assert.equal(await tokens.get(), "t1");
  assert.equal(await tokens.get("another"), "t1");
  assert.deepEqual(await Promise.all([tokens.get("t1"), tokens.get("t1")]), ["t2", "t2"]);
  // A clock that is wrong does not make it ask each time.
  life = -100_000;
  assert.equal(await tokens.get("t2"), "t3");
  assert.equal(await tokens.get(), "t3");
  life = 1;
  assert.equal(await tokens.get("t3"), "t4");
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.equal(await tokens.get(), "t5");
});

test("a token that is given is used, whatever is said of it", async () => {
  for (const source of ["t", { token: "t", expiresAt: 1 }]) {
    const tokens = new Tokens(source);
    assert.deepEqual([await tokens.get(), await tokens.get("t"), tokens.canRenew], ["t", "t", false]);
  }
  assert.equal(await new Tokens(undefined).get(), undefined);
  const failing = new Tokens(() => Promise.reject(new Error("no network")));
  await assert.rejects(failing.get(), { code: "token-unavailable", retriable: true });
  const refused = new Tokens(() => Promise.reject(Object.assign(new Error("log in"), { retriable: false })));
  await assert.rejects(refused.get(), { code: "token-unavailable", retriable: false });
});
