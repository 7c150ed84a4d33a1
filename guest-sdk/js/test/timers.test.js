// Timers in the harness's virtual time, against what the interface promises of a node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { handler, rawHandler, Rejection, Reply } from "../src/index.js";
import { forbidden } from "../src/raw.js";
import { Harness, limits, Trapped } from "../src/test.js";
import { toMs } from "../src/timers.js";

const START = 1_700_000_000_000;

/** A handler that does what its message's function says; a timer's message does what `onTimer` says. */
function doing(onTimer = (cx) => cx.origin) {
    let next;
    const session = new Harness(handler({
        handle: (cx, message) => (cx.origin.kind === "timer" ? onTimer(cx, message) : next(cx)),
        query: (cx) => next(cx),
        migrate: (cx, from) => next(cx, from),
    }));
    return {
        session,
        handle: (what) => ((next = what), session.send("ann", {})),
        query: (what) => ((next = what), session.query({})),
    };
}

const times = (fired) => fired.map((it) => [it.name, it.dueMs - START, it.missed, it.attempt]);

test("durations are what they say", () => {
    const said = ["500ms", "30s", "10m", "2h", "1d", "1.5h", "0.1s", "1.1s", 7, 0, 1.2];
    assert.deepEqual(said.map((duration) => toMs(duration)), [500, 30_000, 600_000, 7_200_000, 86_400_000, 5_400_000, 100, 1100, 7, 0, 2]);
    for (const wrong of ["", "10", "m", "-1s", "1 h", "1h30m", "10 minutes", -1, NaN, null, undefined, {}, 1n]) {
        assert.throws(() => toMs(wrong), /a delay is a number of milliseconds/, String(wrong));
    }
});

test("what is due fires in order and at its time", () => {
    const { session, handle } = doing((cx, then) => {
        if (then !== null) cx.timers.after(then, 500);
        return { ...cx.origin, sender: cx.sender, now: cx.timeMs, date: Date.now(), set: cx.timers.list().map(({ name }) => name) };
    });
    assert.equal(handle((cx) => cx.timers.after("b", "2s")), START + 2000);
    handle((cx) => cx.timers.at("a", new Date(cx.timeMs + 1000), "c"));
    handle((cx) => cx.timers.after("late", 5000));
    assert.deepEqual(session.advance(999), []);
    const fired = session.advance("1001ms");
    assert.deepEqual(times(fired), [["a", 1000, 0, 1], ["c", 1500, 0, 1], ["b", 2000, 0, 1]]);
    assert.deepEqual([session.session.timeMs, session.seq], [START + 2000, 6]);
    const [dueMs, now, date] = [START + 2000, START + 2000, START + 2000];
    assert.deepEqual(fired[2].json(), { kind: "timer", name: "b", dueMs, missed: 0, attempt: 1, now, date, set: ["late"] });
    handle((cx) => cx.timers.after("late", "1ms"));
    assert.equal(session.timers.length, 1);
    assert.deepEqual([handle((cx) => cx.timers.cancel("late")), handle((cx) => cx.timers.cancel("late"))], [true, false]);
    assert.deepEqual(session.advance("1d"), []);
});

test("a period keeps its times", () => {
    const { session, handle } = doing();
    handle((cx) => cx.timers.every("tick", 400));
    assert.deepEqual(times(session.advance("1s")), [["tick", 400, 0, 1], ["tick", 800, 0, 1]]);
    // Nobody serves for a while.
    session.session.timeMs += 1000;
    assert.deepEqual(times(session.advance(0)), [["tick", 1200, 2, 1]]);
    assert.equal(session.timers[0].dueMs, START + 2400);
    assert.deepEqual(times([session.fire("tick")]), [["tick", 2400, 0, 1]]);
    assert.equal(session.session.timeMs, START + 2400, "it is never early");
});

test("what fails is tried again, and given up", () => {
    let failures = 3;
    const { session, handle } = doing((cx) => {
        if (cx.origin.attempt > failures) return "at last";
        cx.timers.after("half", 1);
        cx.emit("half", 1);
        throw new Error("not yet");
    });
    handle((cx) => cx.timers.after("a", "1s"));
    const fired = session.advance("3s");
    assert.deepEqual(times(fired), [["a", 1000, 0, 1], ["a", 1000, 0, 2]]);
    assert.ok(fired[0].error instanceof Trapped);
    assert.throws(() => fired[0].json(), /not yet/);
    assert.deepEqual([session.timers.length, session.timers[0].failures, session.seq], [1, 2, 1]);
    assert.deepEqual(session.advance("5s").map((it) => it.timeMs - START), [4000, 8000]);
    assert.deepEqual([session.timers.length, session.events.length, session.dead.length], [0, 0, 0]);

    failures = 100;
    handle((cx) => cx.timers.after("a", "1s"));
    const all = session.advance("2h");
    assert.deepEqual([all.length, all[19].attempt, all[19].timeMs - all[18].timeMs], [limits.timerAttempts, 20, limits.timerRetryMs]);
    assert.deepEqual([session.timers.length, session.dead.length, session.dead[0].attempts], [0, 1, 20]);

    const refusing = doing(() => { throw new Rejection("no", "never"); });
    refusing.handle((cx) => cx.timers.every("b", "1s"));
    assert.equal(refusing.session.advance("1s")[0].error.code, "no");
    assert.deepEqual([refusing.session.dead[0].name, refusing.session.timers[0].dueMs], ["b", START + 2000]);
});

test("timers go with their message, and queries set none", () => {
    const { session, handle, query } = doing();
    handle((cx) => cx.timers.after("a", 1000));
    assert.throws(() => handle((cx) => {
        cx.timers.after("half", 1);
        cx.timers.cancel("a");
        throw new Error("told to");
    }), Trapped);
    assert.deepEqual(query((cx) => cx.timers.list().map(({ name }) => name)), ["a"]);
    assert.equal(query((cx) => cx.timers.get("a").dueMs), START + 1000);
    assert.equal(query((cx) => String(cx.timers.get("half"))), "undefined");
    assert.throws(() => query((cx) => forbidden(cx).timers.after("b", 1)), Trapped);
    assert.throws(() => query((cx) => forbidden(cx).timers.cancel("a")), Trapped);
    assert.equal(session.timers.length, 1);
    session.reset();
    assert.deepEqual([session.timers, session.dead], [[], []]);
});

test("limits of timers are the host's", () => {
    const { session, handle } = doing();
    const many = (count) => (cx) => { for (let i = 0; i < count; i++) cx.timers.after(`${cx.seq}/${i}`, 1); };
    for (const name of ["", "a\nb", "ä".repeat(65)]) {
        assert.throws(() => handle((cx) => cx.timers.after(name, 1)), Trapped, name);
        assert.throws(() => handle((cx) => cx.timers.cancel(name)), Trapped, name);
    }
    handle((cx) => cx.timers.after("ä".repeat(64), 1));
    const big = (bytes) => (cx) => cx.timers.after("big", 1, Reply.bytes(new Uint8Array(bytes)));
    handle(big(65_536));
    assert.throws(() => handle(big(65_537)), /limit: timers: a body may have 65536 bytes; this one has 65537/);
    const bodies = (count) => (cx) => { for (let i = 0; i < count; i++) cx.timers.after(`${i}`, 1, Reply.bytes(new Uint8Array(65_000))); };
    session.reset();
    handle(bodies(16));
    assert.throws(() => handle(bodies(17)), /limit: more than 1000 timers or 1048576 bytes/);
    session.reset();
    assert.throws(() => handle(many(257)), /limit/);
    for (let i = 0; i < 3; i++) handle(many(256));
    assert.throws(() => handle(many(233)), /limit/);
    handle(many(232));
    assert.equal(session.timers.length, 1000);

    for (const [what, says] of [
        [(timers) => timers.every("a", 99), /a period has 100 ms/],
        [(timers) => timers.at("a", 1e20), /no time/],
        [(timers) => timers.at("a", 221_845_392_000_001), /the last is 221845392000000 ms/],
        [(timers) => timers.cron("a", "* * * *", "UTC"), /five fields/],
        [(timers) => timers.cron("a", "61 * * * *", "UTC"), /no cron expression/],
        [(timers) => timers.cron("a", "0 0 0 * *", "UTC"), /no cron expression/],
        [(timers) => timers.cron("a", "0 0 * * *", "Mars/Olympus"), /no time zone/],
        [(timers) => timers.cron("a", "1".repeat(200), "UTC"), /128 bytes/],
    ]) {
        assert.throws(() => handle((cx) => what(cx.timers)), (error) => error.code === "bad-moment" && says.test(error.message));
    }
    for (const what of [
        (timers) => timers.after("a", "soon"),
        (timers) => timers.at("a", new Date(NaN)),
        (timers) => timers.cron("a", "* * * * *"),
        (timers) => timers.after(7, 1),
        (timers) => timers.after("a", 1, () => 1),
    ]) {
        assert.throws(() => handle((cx) => what(cx.timers)), (error) => error instanceof Trapped && error.cause instanceof TypeError);
    }
});

test("a timer is never due in the past", () => {
    const dues = (cx) => [
        cx.timers.at("at", 1),
        cx.timers.after("after", 0),
        cx.timers.every("every", 100),
        cx.timers.cron("cron", "* * * * *", "UTC"),
    ];
    const { session, handle } = doing((cx, at) => (at === null ? cx.origin.dueMs : dues(cx)));
    assert.deepEqual(handle((cx) => dues(cx)), [START, START, START + 100, START]);
    assert.deepEqual(session.timers.map(({ dueMs }) => dueMs), [START, START, START, START + 100]);
    assert.equal(session.fire("at").json(), START, "its origin has the same time");
    handle((cx) => cx.timers.after("sets", 1000, "all"));
    assert.deepEqual(session.fire("sets").json(), [START + 1100, START + 1100, START + 1100, START + 1100]);
    handle((cx) => cx.timers.cancel("cron"));
    assert.deepEqual(session.advance(99), []);
    assert.deepEqual(session.advance(1).map((it) => it.json()), [START + 1100, START + 1100, START + 1100]);
    assert.equal(handle((cx) => cx.timers.at("last", 221_845_392_000_000)), 221_845_392_000_000);
});

test("cron timers fire when the test says", () => {
    const { session, handle } = doing();
    handle((cx) => cx.timers.cron("cron", "*/5 9-17 * * MON-FRI,7", "Europe/Berlin"));
    session.session.timeMs += 60_000;
    assert.deepEqual(times([session.fire("cron"), session.fire("cron")]), [["cron", 60_000, 0, 1], ["cron", 60_000, 0, 1]]);
    assert.throws(() => session.advance(1), /fire\("cron"\)/);
    assert.throws(() => session.fire("none"), /no timer "none"/);
    handle((cx) => cx.timers.cancel("cron"));
    assert.deepEqual(session.advance(1), []);
});

test("a timer's message has the body that it was set with", () => {
    const echo = new Harness(rawHandler({
        handle: (cx, body) => {
            if (cx.origin.kind === "client") {
                cx.timers.after("text", 1, Reply.text("hi"));
                cx.timers.after("json", 2, { n: 1 });
            }
            return new Reply(cx.contentType, body);
        },
    }));
    echo.sendBytes("ann", "x/y", "");
    assert.deepEqual([echo.timers[0].json(), echo.timers[1].text()], [{ n: 1 }, "hi"]);
    const [text, json] = echo.advance(2);
    assert.deepEqual([text.reply.contentType, text.reply.text()], ["text/plain; charset=utf-8", "hi"]);
    assert.deepEqual([json.reply.contentType, json.json()], ["application/json", { n: 1 }]);
});
