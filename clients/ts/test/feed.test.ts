import assert from "node:assert/strict";
import { test } from "node:test";
import type { ClientOptions } from "../src/index.js";
import { StandInSocket, json, problem, standIn, stream, until } from "./standin.js";

/** A room whose session is at `17-aa`. */
function room(options: ClientOptions = {}, more: { after?: string } = {}, answer = () => problem(503, "unavailable")) {
  const made = standIn(({ url }) => (url.pathname.endsWith("/b") ? json({ seq: 17, position: "17-aa" }) : answer()), options);
  const session = made.client.session("a", "b", more);
  const seen: number[] = [];
  const off = session.on("line", ({ body }) => void seen.push(body));
  return { ...made, session, seen, off };
}

const after = (socket: StandInSocket) => socket.url.searchParams.get("after");
const nth = (sockets: StandInSocket[], n: number) => until(`connection ${n}`, () => sockets.length >= n && sockets[n - 1]!.readyState === 1 && sockets[n - 1]!);

test("a connection goes on where the last one ended, and gives each event once and in order", async () => {
  const { session, sockets, seen, off } = room();
  const socket = await nth(sockets, 1);
  // From the beginning on: what comes while the first connection is lost is not missed.
  assert.deepEqual([after(socket), session.status], ["17-aa", "open"]);
  assert.equal(socket.url.href, "ws://node.test/base/v1/services/a/sessions/b/socket?after=17-aa");
  socket.event(18);
  socket.event(18, 1, "other");
  socket.event(18, 2);
  assert.equal(session.position, "18.2-aa");
  const told: string[] = [];
  const offStatus = session.onStatus((status, reason) => told.push(`${status} ${reason?.code}`));
  socket.end(1006);
  const again = await nth(sockets, 2);
  assert.deepEqual([after(again), told], ["18.2-aa", ["retrying unreachable", "open undefined"]]);
  offStatus();
  // A server that repeats itself.
  again.event(18, 2);
  again.event(19);
  assert.deepEqual(seen, [18, 18, 19]);
  off();
  assert.deepEqual([session.status, again.readyState], ["closed", 3]);
  session.on("line", ({ body }) => void seen.push(body));
  assert.equal(after(await nth(sockets, 3)), "19.0-aa");
  session.close();
});

test("listeners share a connection, and one that throws keeps nothing from the others", async () => {
  const errors: string[] = [];
  const { session, sockets, seen } = room({ onError: (error) => errors.push(`${error}`) });
  const heard: string[] = [];
  session.on("*", () => {
    throw new Error("first");
  });
  session.on("*", async () => Promise.reject(new Error("second")));
  const control = new AbortController();
  session.on("*", ({ kind }) => heard.push(kind), { signal: control.signal });
  session.onNotify("typing", ({ body, sender }) => heard.push(`${sender} ${body}`));
  const socket = await nth(sockets, 1);
  socket.event(18, 0, "other");
  socket.event(19);
  socket.say({ type: "notify", kind: "typing", origin: "client", sender: "zoe", time_ms: 1, content_type: "application/json", body: true });
  socket.say({ type: "later", what: 1 });
  socket.onmessage?.({ data: "no JSON" });
  control.abort();
  socket.event(20);
  await until("the rejection", () => errors.length === 6);
  assert.deepEqual(heard, ["other", "line", "zoe true"]);
  assert.deepEqual([seen, sockets.length], [[19, 20], 1]);
  session.close();
});

test("a gap, a restart and a deleted session are gone on from as the protocol says", async () => {
  const { session, sockets, seen } = room({}, { after: "0" });
  let deletions = 0;
  session.onDeleted(() => void deletions++);
  const first = await nth(sockets, 1);
  assert.equal(after(first), "0");
  first.event(5);
  first.say({ type: "gap", after: "7-aa" });
  const second = await nth(sockets, 2);
  assert.equal(after(second), "7-aa");
  second.event(8);
  second.end(1012, "the node is stopping; reconnect");
  const third = await nth(sockets, 3);
  assert.equal(after(third), "8.0-aa");
  third.say({ type: "deleted" });
  const fourth = await nth(sockets, 4);
  assert.deepEqual([after(fourth), deletions], ["0", 1]);
  // The new session's numbers begin again.
  fourth.event(1);
  assert.deepEqual(seen, [5, 8, 1]);
  session.close();
});

test("what no other connection mends ends it with the error, and a listener begins again", async () => {
  const { session, sockets } = room();
  const told: string[] = [];
  session.onStatus((status, reason) => told.push(`${status} ${reason?.code ?? ""}`.trim()));
  (await nth(sockets, 1)).end(4403, "revoked");
  await until("closed", () => session.status === "closed");
  assert.deepEqual([session.reason?.code, session.reason?.message], ["forbidden", "revoked"]);
  session.on("*", () => {});
  const socket = await nth(sockets, 2);
  socket.say({ type: "error", id: null, status: 404, code: "service-not-found", detail: "gone", retriable: false });
  socket.end(1013);
  await until("closed again", () => session.reason?.code === "service-not-found");
  assert.deepEqual(told, ["open", "closed forbidden", "connecting", "open", "closed service-not-found"]);
  session.on("*", () => {});
  const later = await nth(sockets, 3);
  later.say({ type: "error", id: null, status: 503, code: "unavailable", detail: "not now", retriable: true });
  later.end(1013);
  await until("the reason", () => session.status === "retrying" && session.reason?.code === "unavailable");
  await nth(sockets, 4);
  session.close();
});

test("a token is renewed on the open connection before it ends", async () => {
  let given = 0;
  const { session, sockets } = room({ token: () => ({ token: `t${++given}`, expiresAt: Date.now() + 50 }) });
  const socket = await nth(sockets, 1);
  assert.equal(socket.url.searchParams.get("access_token"), "t1");
  const auth = await until("auth", () => socket.sent.find(({ type }) => type === "auth"));
  assert.equal(auth.token, "t2");
  socket.say({ type: "auth", expires_ms: 5 });
  await until("auth again", () => socket.sent.some(({ token }) => token === "t3"));
  // Of another subject, say: a new connection may have it.
  socket.say({ type: "error", id: null, status: 403, code: "forbidden", detail: "another subject", retriable: false });
  const again = await nth(sockets, 2);
  assert.ok(Number(again.url.searchParams.get("access_token")?.slice(1)) >= 3);
  session.close();
});

test("at the end of its token a connection is made again with another one, or ends for good", async () => {
  let given = 0;
  const { session, sockets, seen } = room({ token: () => `t${++given}` });
  const socket = await nth(sockets, 1);
  socket.event(18);
  socket.say({ type: "error", id: null, status: 401, code: "token-expired", detail: "", retriable: false });
  socket.end(4401, "the token has expired");
  const again = await nth(sockets, 2);
  assert.deepEqual([again.url.searchParams.get("access_token"), after(again)], ["t2", "18.0-aa"]);
  again.event(19);
  assert.deepEqual(seen, [18, 19]);
  session.close();
  const fixed = room({ token: "t" });
  (await nth(fixed.sockets, 1)).end(4401);
  await until("closed", () => fixed.session.status === "closed");
  assert.equal(fixed.session.reason?.code, "token-expired");
});

/** A connection that a network has dropped without a word would be open for ever. */
test("a silent connection is asked, and made again if there is no answer", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const { session, sockets } = room({ heartbeat: 10_000 }, { after: "0" });
  const turn = async () => {
    for (let i = 0; i < 20; i++) await Promise.resolve();
  };
  await turn();
  const socket = sockets[0]!;
  t.mock.timers.tick(10_000);
  assert.deepEqual(socket.sent, [{ type: "ping", id: "ping" }]);
  // Any answer will do, also that a server does not know it.
  socket.say({ type: "error", id: "ping", status: 400, code: "request-invalid", detail: "", retriable: false });
  t.mock.timers.tick(10_000);
  assert.equal(socket.sent.length, 2);
  t.mock.timers.tick(10_000);
  await turn();
  assert.deepEqual([session.status, session.reason?.code], ["retrying", "unreachable"]);
  t.mock.timers.tick(10);
  await turn();
  assert.equal(sockets.length, 2);
  session.close();
});

test("where sockets do not get through, an event stream does", async () => {
  const text =
    'retry: 1000\n\nid: 18.0-aa\nevent: line\ndata: {"seq":18,"index":0,"kind":"line","time_ms":1,"content_type":"application/json","body":18}\n\n' +
    'event: typing\ndata: {"ephemeral":true,"kind":"typing","origin":"handler","time_ms":1,"content_type":"application/json","body":1}\n\n' +
    'id: 19.0-aa\nevent: slotd.restarted\ndata: {"seq":19,"index":0,"kind":"slotd.restarted","time_ms":1,"content_type":"application/json","body":{}}\n\n';
  const made = standIn(({ url }) => (url.searchParams.get("after") === "19.0-aa" ? stream(text, true) : stream(text, false)), { token: "t" });
  StandInSocket.opening = (socket) => socket.end(1006);
  const session = made.client.session("a", "b", { after: "17-aa" });
  const kinds: string[] = [];
  session.on("*", ({ kind, position }) => kinds.push(`${kind} ${position}`));
  session.onNotify("*", ({ kind }) => kinds.push(kind));
  await until("both streams", () => made.asked.length >= 2 && kinds.length === 4);
  assert.deepEqual(kinds, ["line 18.0-aa", "typing", "slotd.restarted 19.0-aa", "typing"]);
  assert.deepEqual(made.asked.map(({ url }) => url.searchParams.get("after")), ["17-aa", "19.0-aa"]);
  assert.equal(made.asked[0]!.headers.authorization, "Bearer t");
  session.close();
});

test("a browser's socket that is refused does not say why, so the other route is asked", async () => {
  for (const transport of ["websocket", "auto"] as const) {
    const made = standIn(() => problem(403, "forbidden", { detail: "not this room" }), { transport });
    StandInSocket.opening = (socket) => socket.end(1006);
    const session = made.client.session("a", "b", { after: "0" });
    session.on("*", () => {});
    await until("closed", () => session.status === "closed");
    assert.deepEqual([session.reason?.code, session.reason?.message], ["forbidden", "not this room"]);
  }
});

test("the ends of an event stream are gone on from too", async () => {
  let given = 0;
  const ends = [
    'event: slotd.gap\ndata: {"after":"5-aa"}\n\n',
    'event: error\ndata: {"status":401,"code":"token-expired","detail":"","retriable":false}\n\n',
    "id: 0\nevent: slotd.deleted\ndata: {}\n\n",
    'event: slotd.error\ndata: {"status":503,"code":"unavailable","detail":"","retriable":true}\n\n',
    'event: error\ndata: {"status":403,"code":"forbidden","detail":"no more","retriable":false}\n\n',
  ];
  const made = standIn((_, number) => stream(ends[number - 1]!), { transport: "sse", token: () => `t${++given}` });
  const session = made.client.session("a", "b", { after: "1-aa" });
  let deletions = 0;
  session.onDeleted(() => deletions++);
  session.on("*", () => {});
  await until("closed", () => session.status === "closed");
  assert.deepEqual(made.asked.map(({ url }) => url.searchParams.get("after")), ["1-aa", "5-aa", "5-aa", "0", "0"]);
  assert.deepEqual([session.reason?.code, deletions], ["forbidden", 1]);
});

test("a listener that ends the connection gets nothing more", async () => {
  const { session, sockets, seen, off } = room();
  session.on("*", () => session.close());
  const socket = await nth(sockets, 1);
  socket.event(18);
  socket.event(19);
  assert.deepEqual(seen, [18]);
  assert.equal(session.status, "closed");
  off();
});
