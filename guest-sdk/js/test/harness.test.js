// The harness has the host's rules: a handler that passes here must not be surprised there.

import assert from "node:assert/strict";
import { test } from "node:test";
import { handler, rawHandler, Rejection, Reply } from "../src/index.js";
import { forbidden } from "../src/raw.js";
import { Harness, limits, Refused, Trapped } from "../src/test.js";

/** A handler that does what its message's function says. */
function doing() {
    let next;
    const session = new Harness(handler({
        handle: (cx) => next(cx),
        query: (cx) => next(cx),
        migrate: (cx, from) => next(cx, from),
    }));
    return {
        session,
        handle: (what) => ((next = what), session.send("ann", {})),
        query: (what) => ((next = what), session.query({})),
        migrate: (what) => ((next = what), session.migrate("1.0.0")),
    };
}

test("a failed call leaves nothing behind", () => {
    const { session, handle, query } = doing();
    handle((cx) => cx.state.set("kept", 1));
    const writes = (cx) => {
        cx.state.set("new", 1);
        cx.state.set("kept", 2);
        cx.state.delete("kept");
        cx.emit("e", 1);
        cx.notify("n", 1);
    };
    assert.throws(() => handle((cx) => (writes(cx), oops())), (error) => error instanceof Trapped && error.cause instanceof TypeError);
    assert.throws(() => handle((cx) => {
        writes(cx);
        throw new Rejection("no", "no");
    }), { code: "no" });
    assert.throws(() => handle((cx) => (writes(cx), new Rejection("no", "returned"))), { code: "no" });
    assert.deepEqual([session.seq, session.keys(), session.get("kept"), session.events.length, session.notified.length], [1, ["kept"], 1, 0, 0]);
    handle((cx) => { for (let i = 0; i < limits.notified; i++) cx.notify("n", { i }); });
    assert.deepEqual([session.notified.length, session.notified[1].json(), session.notified[1].seq], [limits.notified, { i: 1 }, 2]);
    handle((cx) => cx.notifyBytes("b", "text/plain", new TextEncoder().encode("hi")));
    assert.equal(query((cx) => cx.seq), 3);
    function oops() {
        throw new TypeError("oops");
    }
});

test("what is not allowed traps, even where the handler catches it", () => {
    const { session, handle, query, migrate } = doing();
    const catching = (what) => (cx) => {
        try {
            what(cx);
        } catch {
            return "caught";
        }
    };
    for (const what of [
        (cx) => forbidden(cx).state.set("k", 1),
        (cx) => forbidden(cx).state.delete("k"),
        (cx) => forbidden(cx).emit("k", 1),
        (cx) => forbidden(cx).notify("k", 1),
    ]) {
        assert.throws(() => query(catching(what)), Trapped);
    }
    for (const what of [
        (cx) => cx.state.set("k".repeat(limits.keyBytes + 1), 1),
        (cx) => cx.state.setBytes("k", new Uint8Array(limits.valueBytes + 1)),
        (cx) => { for (let i = 0; i < 5; i++) cx.state.setBytes(`k${i}`, new Uint8Array(limits.valueBytes)); },
        (cx) => { for (let i = 0; i <= limits.events; i++) cx.emit("e", 1); },
        (cx) => { for (let i = 0; i <= limits.notified; i++) cx.notify("e", 1); },
        (cx) => cx.notifyBytes("e", "text/plain", new Uint8Array(limits.notifiedBytes)),
        (cx) => cx.notify("slotd.deleted", 1),
        (cx) => cx.emit("two words", 1),
        (cx) => cx.emit("error", 1),
        (cx) => cx.emit("slotd.deleted", 1),
        (cx) => { for (let i = 0; i <= limits.hostCalls; i++) cx.state.get("k"); },
    ]) {
        assert.throws(() => handle(catching(what)), Trapped, String(what));
    }
    assert.throws(() => handle(() => "x".repeat(limits.replyBytes)), /limit: a reply/);
    assert.throws(() => migrate(() => "not today"), Refused);
    assert.throws(() => migrate(() => { throw "not today"; }), Refused);
    assert.throws(() => migrate(() => { throw new Rejection("no", "not today"); }), /not today \(no\)/);
    assert.throws(() => migrate(() => { throw new Error("oh"); }), Trapped);
    assert.deepEqual([session.seq, session.keys()], [0, []]);
});

test("what is no answer is a fault", () => {
    const { handle } = doing();
    assert.throws(() => handle(async () => 1), /gave a Promise/);
    assert.throws(() => handle((cx) => cx.state.set("k", undefined)), /no form in JSON/);
    assert.throws(() => handle((cx) => cx.state.set("k", NaN)), /NaN is no number of JSON/);
    assert.throws(() => handle((cx) => cx.state.set(7, 1)), /a key is a string/);
    assert.throws(() => handle((cx) => cx.state.get("\ud800")), /surrogate/);
    assert.throws(() => handle((cx) => cx.log("loud", "x")), /no level/);
    assert.throws(() => handle(() => { const a = []; a.push(a); return a; }), Trapped);
    assert.equal(handle(() => undefined), null);
});

test("bodies and state that are no JSON are told apart", () => {
    const session = new Harness(handler({ handle: (cx) => cx.state.get("k"), query: () => 1 }));
    for (const body of ["", "{", Uint8Array.of(0x22, 0xff, 0x22)]) {
        assert.throws(() => session.sendBytes(null, "application/json", body), { code: "bad-message" });
        assert.throws(() => session.queryBytes("application/json", body), { code: "bad-query" });
    }
    session.session.state.set("k", Uint8Array.of(0x7b));
    assert.throws(() => session.send(null, {}), { code: "bad-state" });
    const silent = new Harness(handler({ handle: () => 1 }));
    assert.throws(() => silent.query({}), { code: "no-queries" });
});

test("scans are in order of the keys' bytes, over all pages", () => {
    const { handle, session } = doing();
    const keys = ["a", "b/\u{10ffff}", "b/\uffff", "b/é", "b/z", "b/", "b", "c"];
    handle((cx) => keys.forEach((key) => cx.state.set(key, key)));
    assert.deepEqual(handle((cx) => [...cx.state.scan("b/")].map(([key]) => key)), ["b/", "b/z", "b/é", "b/\uffff", "b/\u{10ffff}"]);
    assert.deepEqual(handle((cx) => [...cx.state.scan("b/", { after: "b/z" })].map(([key]) => key)).length, 3);
    assert.deepEqual(session.keys()[0], "a");
    handle((cx) => { for (let i = 0; i < 3000; i++) cx.state.set(`n/${String(i).padStart(5, "0")}`, i); });
    assert.equal(handle((cx) => [...cx.state.scan("n/")].every(([, value], i) => value === i) && [...cx.state.scan("n/")].length), 3000);
});

test("time and chance are the message's, and the test's own come back", () => {
    const { handle, session } = doing();
    const own = [Date, Math.random, globalThis.console, globalThis.crypto, process.pid];
    session.session.timeMs = 86_400_000;
    const draw = () => [Math.random(), crypto.randomUUID(), Date.now(), new Date().toISOString(), performance.now(), new Date(0).getHours()];
    const first = handle(draw);
    assert.deepEqual(first.slice(2), [86_400_000, "1970-01-02T00:00:00.000Z", 86_400_000, 0]);
    assert.match(first[1], /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    assert.notDeepEqual(handle(draw)[0], first[0]);
    const again = doing();
    again.session.session.timeMs = 86_400_000;
    assert.deepEqual(again.handle(draw), first);
    assert.equal(handle(() => [typeof process, typeof Buffer, typeof fetch].join()), "undefined,undefined,undefined");
    assert.deepEqual([Date, Math.random, globalThis.console, globalThis.crypto, process.pid], own);
});

test("a reset forgets the session", () => {
    const { session, handle } = doing();
    handle((cx) => (cx.state.set("k", 1), cx.log("info", "x"), cx.emit("e", 1)));
    session.reset();
    assert.deepEqual([session.seq, session.keys(), session.events, session.takeLog()], [0, [], [], []]);
    assert.equal(handle((cx) => cx.seq), 1);
});

test("raw handlers have bytes", () => {
    const echo = new Harness(rawHandler({ handle: (cx, body) => new Reply(cx.contentType, body) }));
    const body = Uint8Array.from({ length: 256 }, (_, i) => i);
    const reply = echo.sendBytes(null, "x/y", body);
    assert.deepEqual([reply.contentType, reply.body], ["x/y", body]);
    const bad = new Harness(rawHandler({ handle: () => 7 }));
    assert.throws(() => bad.sendBytes(null, "x/y", body), /gives a Reply/);
});

test("sessions go to another version", () => {
    const one = new Harness(handler({ handle: (cx) => cx.state.set("n", 1) }));
    one.send(null, {});
    const two = one.swap(handler({
        handle: (cx) => cx.state.get("n"),
        migrate: (cx, from) => (from === "1.0.0" ? cx.state.set("n", 2) : "no"),
    }), "1.0.0");
    assert.deepEqual([two.send(null, {}), two.seq], [2, 2]);
    assert.throws(() => one.swap(handler({ handle() {}, migrate: () => "no" }), "1.0.0"), Refused);
});
