// Sessions that expire, in the harness's virtual time, against what the interface promises of a node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { handler, Rejection } from "../src/index.js";
import { forbidden } from "../src/raw.js";
import { Harness, limits, Trapped } from "../src/test.js";

const START = 1_700_000_000_000;
const MINUTE = 60_000;

/** A handler that does what its message's function says; a timer's message does what `onTimer` says. */
function doing(onTimer = () => {}) {
    let next;
    const session = new Harness(handler({
        handle: (cx) => (cx.origin.kind === "timer" ? onTimer(cx) : next(cx)),
        query: (cx) => next(cx),
        migrate: (cx, from) => next(cx, from),
    }));
    return {
        session,
        handle: (what) => ((next = what), session.send("ann", {})),
        query: (what) => ((next = what), session.query({})),
        migrate: (what) => ((next = what), session.migrate("0.1.0")),
    };
}

test("a session that expires is gone and begins anew", () => {
    const { session, handle } = doing();
    handle((cx) => cx.state.set("noted", true));
    handle((cx) => cx.timers.after("later", MINUTE + 1));
    handle((cx) => cx.send("sink/a", 1, { replyAs: "r" }));
    handle((cx) => cx.expire({ after: "1m" }));
    assert.equal(session.expires, START + MINUTE);
    assert.deepEqual(session.advance(MINUTE - 1), []);
    assert.deepEqual([session.seq, session.get("noted")], [4, true]);
    assert.deepEqual(session.advance(MINUTE), []);
    const left = [session.seq, session.expires, session.keys(), session.timers, session.unanswered];
    assert.deepEqual(left, [0, undefined, [], [], []]);
    assert.deepEqual([session.session.name, session.session.timeMs], ["session", START + 2 * MINUTE - 1]);
    handle((cx) => cx.state.set("noted", cx.seq));
    assert.deepEqual([session.seq, session.get("noted")], [1, 1]);
});

test("a later message has the last word", () => {
    const { session, handle } = doing();
    handle((cx) => cx.expire({ after: MINUTE }));
    handle((cx) => cx.expire({ at: new Date(START + 70_000) }));
    assert.throws(() => handle((cx) => {
        cx.expire({ after: 1 });
        throw new Rejection("no", "No.");
    }), { code: "no" });
    handle(() => {});
    assert.equal(session.expires, START + 70_000);
    handle((cx) => cx.keep());
    assert.equal(session.expires, undefined);
    session.advance("2m");
    assert.equal(session.seq, 4);
    // A time that has passed is now.
    handle((cx) => cx.expire({ at: 5 }));
    assert.equal(session.expires, START + 2 * MINUTE);
    session.advance(0);
    assert.equal(session.seq, 0);
});

/** A timer for the same time may still keep the session, as on a node. */
test("timers that are due before fire before", () => {
    const { session, handle } = doing((cx) => cx.keep());
    handle((cx) => cx.expire({ after: "1m" }));
    handle((cx) => cx.timers.after("keep", "1m"));
    assert.deepEqual(session.advance("2m").map(({ timeMs }) => timeMs), [START + MINUTE]);
    assert.equal(session.seq, 3);
    const other = doing((cx) => cx.expire({ after: 20 }));
    other.handle((cx) => cx.timers.after("expire", 10));
    assert.equal(other.session.advance("1m").length, 1);
    assert.equal(other.session.seq, 0);
});

test("a time that can't be is refused and changes nothing", () => {
    const { session, handle } = doing();
    handle((cx) => cx.expire({ after: 1 }));
    const last = limits.timerMs;
    const whens = [{ at: last + 1 }, { after: last }, { after: Infinity }, { at: new Date(8.64e15) }];
    for (const when of whens) {
        const wrong = { code: "bad-moment", message: /is no time at which a session can expire: the last is 2218/ };
        assert.throws(() => handle((cx) => cx.expire(when)), wrong, JSON.stringify(when));
    }
    for (const when of [undefined, {}, { after: 1, at: 1 }, { after: "soon" }, { at: "10m" }, "10m"]) {
        assert.throws(() => handle((cx) => cx.expire(when)), Trapped, JSON.stringify(when));
    }
    assert.deepEqual([session.expires, session.seq], [START + 1, 1]);
    handle((cx) => cx.expire({ at: last }));
    assert.equal(session.expires, last);
});

test("only a message says so", () => {
    const { session, handle, query, migrate } = doing();
    handle((cx) => cx.expire({ after: 1 }));
    const wrong = { message: "only `handle` may have the session expire" };
    assert.throws(() => query((cx) => forbidden(cx).keep()), wrong);
    assert.throws(() => query((cx) => forbidden(cx).expire({ at: 5 })), wrong);
    // The harness's own: `migrate` has no such function.
    assert.throws(() => migrate((cx) => cx.expire({ at: 5 })), /expire is not a function/);
    assert.equal(session.expires, START + 1);
});
