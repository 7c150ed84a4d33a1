import assert from "node:assert/strict";
import { test } from "node:test";
import { SlotdError } from "../src/index.js";
import { answering, json, problem, standIn, until } from "./standin.js";

const acknowledged = (seq: number) =>
  json({ n: seq }, { "slotd-seq": `${seq}`, "slotd-position": `${seq}-aa`, "slotd-plugin": "1.0.0+ab", "slotd-slot": "1" });

test("a message is sent with its key until it is decided, after what the server asks to wait", async () => {
  const times: number[] = [];
  const { client, asked } = standIn((_, number) => {
    times.push(performance.now());
    if (number === 1) return Promise.reject(new TypeError("no network"));
    if (number === 2) return problem(503, "mailbox-full", {}, { "retry-after": "0.05" });
    return acknowledged(7);
  }, { sender: "zoe" });
  const reply = await client.session("chat", "room/17").send({ text: "hi" });
  assert.equal(asked.length, 3);
  const keys = new Set(asked.map(({ headers }) => headers["idempotency-key"]));
  assert.deepEqual([...keys], [reply.idempotencyKey]);
  assert.match(reply.idempotencyKey, /^[0-9a-f]{32}$/);
  assert.deepEqual([reply.body, reply.seq, reply.position, reply.replayed], [{ n: 7 }, 7, "7-aa", false]);
  const [first] = asked;
  assert.equal(first!.url.href, "http://node.test/base/v1/services/chat/sessions/room%2F17/messages");
  assert.deepEqual([first!.body, first!.headers["slotd-sender"]], ['{"text":"hi"}', "zoe"]);
  assert.ok(times[2]! - times[1]! >= 49, `${times}`);
});

/** A client that comes back earlier is refused again, and one that gives up loses what would have passed. */
test("a message over a limit waits as long as the limit says, and a full quota is told at once", async () => {
  const times: number[] = [];
  const { client, asked } = standIn((_, number) => {
    times.push(performance.now());
    if (number === 1) return problem(429, "rate-limited", { retriable: true }, { "retry-after": "0.05", ratelimit: '"subject-messages";r=0;t=1' });
    if (number === 2) return acknowledged(1);
    if (number === 3) return Promise.reject(new TypeError("broken"));
    return problem(429, "quota-exceeded", { retriable: false });
  });
  const room = client.session("chat", "room");
  assert.equal((await room.send(1)).seq, 1);
  assert.ok(times[1]! - times[0]! >= 49, `${times}`);
  // It was looked up by its key before it was refused: it was not applied before either.
  await assert.rejects(room.send(2), { code: "quota-exceeded", status: 429, retriable: false });
  assert.equal(asked.length, 4);
});

test("what the handler refuses, or no repetition changes, is told at once", async () => {
  const { client, asked } = standIn(({ url }) => {
    if (url.pathname.includes("rejects")) {
      return problem(422, "rejected", { retriable: true, rejection: { code: "too-many", message: "Later.", retriable: true } });
    }
    return problem(404, "service-not-found");
  });
  const rejected = await client.session("chat", "rejects").send(1).catch((error) => error as SlotdError);
  assert.ok(rejected instanceof SlotdError);
  assert.deepEqual([rejected.code, rejected.status, rejected.rejection?.code, rejected.message], ["rejected", 422, "too-many", "Later."]);
  await assert.rejects(client.session("none", "x").send(1), { code: "service-not-found", retriable: false });
  assert.equal(asked.length, 2);
});

/** An error of the third attempt says nothing of the first one. */
test("a message that may have been applied is undecided, and never said to be refused", async () => {
  const { client } = standIn((_, number) =>
    number === 1 ? Promise.reject(new TypeError("broken")) : problem(403, "forbidden"));
  const error = await client.session("a", "b").send(1, { idempotencyKey: "k" }).catch((e) => e as SlotdError);
  assert.deepEqual([(error as SlotdError).code, (error as SlotdError).idempotencyKey], ["undecided", "k"]);
  const rejects = standIn((_, number) =>
    number === 1 ? Promise.reject(new TypeError("broken")) : problem(422, "rejected"));
  await assert.rejects(rejects.client.session("a", "b").send(1), { code: "rejected" });
});

test("at the deadline a message is undecided, or not sent where every answer says that it was not kept", async () => {
  const silent = standIn(() => new Promise(() => {}), { attemptTimeout: 5 });
  const room = silent.client.session("a", "b");
  const [first, second] = [room.send(1, { deadline: 30 }), room.send(2, { deadline: 10 })];
  await assert.rejects(second, { code: "not-sent", retriable: true });
  await assert.rejects(first, { code: "undecided", retriable: true });
  assert.ok(silent.asked.length > 1 && silent.asked.every(({ body }) => body === "1"));
  const tokenless = standIn(() => acknowledged(1), { token: () => new Promise<string>(() => {}), attemptTimeout: 5 });
  await assert.rejects(tokenless.client.session("a", "b").send(1, { deadline: 20 }), { code: "not-sent" });
  const full = standIn(() => problem(503, "mailbox-full"));
  await assert.rejects(full.client.session("a", "b").send(1, { deadline: 20 }), { code: "not-sent" });
});

test("messages of a session are sent one after the other, in the order of the calls", async () => {
  let failing = 3;
  const { client, asked } = standIn(async ({ body }) => {
    await new Promise((resolve) => setTimeout(resolve, Math.random() * 3));
    if (body === "2" && failing-- > 0) return problem(503, "unavailable");
    return acknowledged(Number(body));
  });
  const room = client.session("a", "b");
  const given = new AbortController();
  const sends = [1, 2, 3, 4, 5].map((n) => room.send(n, n === 4 ? { signal: given.signal } : {}));
  given.abort(new Error("not this one"));
  await assert.rejects(sends[3]!, /not this one/);
  // It did not let the last one go before its turn.
  const rest = await Promise.all([sends[0], sends[1], sends[2], sends[4]]);
  assert.deepEqual(rest.map((reply) => reply!.seq), [1, 2, 3, 5]);
  assert.deepEqual(asked.map(({ body }) => body), ["1", "2", "2", "2", "2", "3", "5"]);
  const both = await Promise.all([room.send(6, { ordered: false }), client.session("a", "c").send(7)]);
  assert.deepEqual(both.map(({ seq }) => seq), [6, 7]);
});

test("the queue is bounded in messages and bytes, and takes more when there is room", async () => {
  let release = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  const { client } = standIn(async () => held.then(() => acknowledged(1)), { queue: { messages: 3, bytes: 100 } });
  const [a, b] = [client.session("a", "a"), client.session("a", "b")];
  const waiting = [a.send(1), b.send("x".repeat(90))];
  await assert.rejects(a.send("too many bytes"), { code: "queue-full", retriable: true });
  waiting.push(a.send(2));
  await assert.rejects(a.send(3), { code: "queue-full" });
  release();
  await Promise.all(waiting);
  await a.send(4);
});

test("closing gives up what waits, and the client can be used again", async () => {
  let isOpen = false;
  const { client } = standIn(() => (isOpen ? acknowledged(1) : new Promise(() => {})));
  const room = client.session("a", "b");
  const warnings: unknown[] = [];
  process.on("warning", (warning) => warnings.push(warning.message));
  const sends = Array.from({ length: 30 }, (_, n) => room.send(n));
  client.close();
  for (const send of sends) await assert.rejects(send, { code: "closed" });
  isOpen = true;
  assert.equal((await room.send(3)).seq, 1);
  assert.deepEqual(warnings, []);
});

test("a message to a node that is gone waits while the browser is offline, and goes when it is back", async () => {
  const real = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  const target = new EventTarget();
  let onLine = false;
  const set = (name: string, value: unknown) => Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  set("navigator", { get onLine() { return onLine; } });
  set("addEventListener", target.addEventListener.bind(target));
  set("removeEventListener", target.removeEventListener.bind(target));
  try {
    const { client, asked } = standIn(() => acknowledged(1));
    const sends = [1, 2].map((n) => client.session("a", "b").send(n));
    await assert.rejects(client.session("a", "b").send(0, { deadline: 5 }), { code: "not-sent" });
    assert.equal(asked.length, 0);
    onLine = true;
    target.dispatchEvent(new Event("online"));
    await Promise.all(sends);
    assert.deepEqual(asked.map(({ body }) => body).sort(), ["1", "2"]);
  } finally {
    for (const name of ["addEventListener", "removeEventListener", "navigator"]) delete (globalThis as any)[name];
    if (real) Object.defineProperty(globalThis, "navigator", real);
  }
});

test("a token that has expired is asked for once more, and no second time", async () => {
  let given = 0;
  const { client, asked } = standIn(({ headers }) =>
    headers.authorization === "Bearer t2" ? acknowledged(1) : problem(401, "token-expired"), { token: () => `t${++given}` });
  await Promise.all([client.session("a", "b").send(1), client.session("a", "c").send(2)]);
  assert.equal(given, 2);
  const before = asked.length;
  const never = standIn(() => problem(401, "unauthorized"), { token: () => `t${++given}` });
  await assert.rejects(never.client.session("a", "b").send(1), { code: "unauthorized", status: 401 });
  assert.deepEqual([never.asked.length, before], [2, 4]);
  const fixed = standIn(() => problem(401, "unauthorized"), { token: "t" });
  await assert.rejects(fixed.client.session("a", "b").send(1), { code: "unauthorized" });
  assert.equal(fixed.asked.length, 1);
});

test("the history is read page by page, with the library's names", async () => {
  const entry = (seq: number) => ({
    seq, time_ms: 5, plugin: "p", content_type: "application/json", body: { at_ms: 1 }, reply_content_type: "x/y",
    reply_base64: "aGk=", events: [{ seq, index: 0, kind: "line", time_ms: 5, content_type: "application/json", body: 1 }],
  });
  const { client, asked } = standIn(({ url }) => {
    const after = url.searchParams.get("after");
    const first = { entries: [1, 2, 3].map(entry), last_seq: 5, next_after: 3, position: "3-aa" };
    return json(after === "0" ? first : { entries: [4, 5].map(entry), last_seq: 5, position: "5-aa" });
  });
  const room = client.session("a", "b");
  const all = [];
  for await (const read of room.history()) all.push(read);
  assert.deepEqual(all.map(({ seq }) => seq), [1, 2, 3, 4, 5]);
  assert.deepEqual([all[0]!.timeMs, all[0]!.body, all[0]!.reply, all[0]!.events[0]!.contentType],
    [5, { at_ms: 1 }, new Uint8Array([104, 105]), "application/json"]);
  assert.equal(asked[1]!.url.searchParams.get("after"), "3-aa");
  const some = [];
  for await (const { seq } of room.history({ limit: 2 })) some.push(seq);
  assert.deepEqual(some, [1, 2]);
  assert.equal(asked[2]!.url.searchParams.get("limit"), "2");
});

test("a session is asked as it was, and forked", async () => {
  const { client, asked } = standIn(() => json({ seq: 2, forked: { session: "b", at: 2 } }));
  const room = client.session("a", "b");
  await room.query({ q: 1 }, { at: 2 });
  assert.equal((await room.describe({ at: 2 })).seq, 2);
  const branch = await room.fork("c d", { at: 2 });
  await room.fork("e");
  await branch.describe();
  const paths = asked.map(({ url }) => url.pathname.split("/sessions/")[1] + url.search);
  assert.deepEqual(paths, ["b/query?at=2", "b?at=2", "b/fork", "b/fork", "c%20d"]);
  const bodies = asked.slice(2, 4).map(({ body }) => JSON.parse(`${body}`));
  assert.deepEqual(bodies, [{ to: "c d", at: 2 }, { to: "e" }]);
});

test("what is not slotd's own answer is a proxy's", async () => {
  const { client, asked } = standIn((_, number) =>
    number === 1 ? new Response("<h1>Bad gateway</h1>", { status: 502 }) : number === 2 ? acknowledged(1) : new Response("no", { status: 404 }));
  assert.equal((await client.session("a", "b").send(1)).seq, 1);
  await assert.rejects(client.session("a", "b").send(1), { code: "bad-answer", status: 404, retriable: false });
  assert.equal(asked.length, 3);
});

test("a stand-in's request ends with its signal", async () => {
  const { fetch } = answering(() => new Promise(() => {}));
  const control = new AbortController();
  const asked = fetch("http://x.test/", { signal: control.signal });
  control.abort(new Error("ended"));
  await assert.rejects(asked, /ended/);
  await until("nothing", () => true);
});
