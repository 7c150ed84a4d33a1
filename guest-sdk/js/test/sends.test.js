// Messages between sessions, against what the interface promises of a node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { handler, rawHandler, Rejection, Reply } from "../src/index.js";
import { forbidden } from "../src/raw.js";
import { Harness, limits, Trapped } from "../src/test.js";

/** A handler that does what its message's function says; messages of sessions go to `onOther`. */
function doing(onOther = (cx) => cx.origin, more = {}) {
    let next;
    const session = new Harness(handler({
        handle: (cx, message) => (cx.origin.kind === "client" ? next(cx) : onOther(cx, message)),
        query: (cx) => next(cx),
        migrate: (cx) => next(cx),
        ...more,
    }));
    return {
        session,
        handle: (what) => ((next = what), session.send("ann", {})),
        query: (what) => ((next = what), session.query({})),
    };
}

test("what is sent is what the test sees", () => {
    const { session, handle } = doing();
    handle((cx) => {
        cx.send("stock/widget", { reserve: 2 }, { replyAs: "reserve" });
        cx.send({ service: "mail", session: "a/b" }, Reply.text("hi"));
        cx.send("self/é/x");
    });
    assert.deepEqual(session.sent.map(({ seq, to, contentType, replyAs }) => [seq, to, contentType, replyAs]), [
        [1, "stock/widget", "application/json", "reserve"],
        [1, "mail/a/b", "text/plain; charset=utf-8", undefined],
        [1, "self/é/x", "application/json", undefined],
    ]);
    assert.deepEqual([session.sent[0].json(), session.sent[1].text(), session.sent[2].json()], [{ reserve: 2 }, "hi", null]);
    assert.deepEqual(session.unanswered.map(({ to }) => to), ["stock/widget"]);
    session.reset();
    assert.deepEqual([session.sent, session.unanswered], [[], []]);
});

test("what is sent goes with its message, and queries send nothing", () => {
    const { session, handle, query } = doing();
    assert.throws(() => handle((cx) => {
        cx.send("stock/widget", 1, { replyAs: "a" });
        throw new Error("told to");
    }), Trapped);
    assert.throws(() => handle((cx) => {
        cx.send("stock/widget", 1);
        throw new Rejection("no", "No.");
    }), { code: "no" });
    assert.throws(() => query((cx) => forbidden(cx).send("stock/widget", 1)), /only `handle` may send/);
    assert.equal(query((cx) => typeof cx.send), "undefined");
    handle((cx) => cx.state.set("a", 1));
    const swapped = new Harness(handler({ handle: () => 1, migrate: (cx) => cx.send("a/b") }), session.session);
    assert.throws(() => swapped.migrate("1.0.0"), Trapped);
    assert.deepEqual([session.sent, session.unanswered, session.seq], [[], [], 1]);
});

test("the other session's message says whose it is", () => {
    const { session } = doing((cx, message) => ({ ...cx.origin, by: cx.sender ?? null, message }));
    assert.deepEqual(session.deliver("cart/ann/1", { take: 1 }), {
        kind: "session",
        sender: { service: "cart", session: "ann/1" },
        attempt: 1,
        replyWanted: false,
        by: null,
        message: { take: 1 },
    });
    const again = session.deliver({ service: "cart", session: "bob" }, 1, { attempt: 3, replyWanted: true });
    assert.deepEqual([again.sender.session, again.attempt, again.replyWanted], ["bob", 3, true]);
    for (const from of ["cart", "Cart/a", "cart/"]) assert.throws(() => session.deliver(from, 1), (error) => !(error instanceof Trapped));
    assert.equal(session.seq, 2);

    const echo = new Harness(rawHandler({ handle: (cx, body) => new Reply(cx.contentType, body) }));
    assert.equal(echo.deliver("cart/ann", Reply.text("hi")).text(), "hi");
});

test("an outcome comes back under its name", () => {
    const told = [];
    const answer = (cx, of, reply) => {
        assert.equal(of, cx.origin);
        told.push([of, reply]);
        return { told: told.length };
    };
    // A reply is no message: it is none of `parseMessage`'s.
    const parseMessage = (value) => (Object.keys(value).length === 0 ? value : assert.fail("it is no message"));
    const { session, handle } = doing(undefined, { answer, parseMessage });
    handle((cx) => {
        for (const of of ["a", "b", "c"]) cx.send(`stock/${of}`, 1, { replyAs: "reserve" });
        cx.send("mail/ann", 1);
    });
    assert.deepEqual(session.answer("reserve", { left: 3 }, { from: "stock/b" }), { told: 1 });
    session.answer("reserve", { left: 5 });
    session.refuse("reserve", "sold-out", "None left.", { retriable: true });
    const said = (of, refusal) => ({ kind: "answer", name: "reserve", sender: { service: "stock", session: of }, refusal, attempt: 1 });
    assert.deepEqual(told, [
        [said("b", undefined), { left: 3 }],
        [said("a", undefined), { left: 5 }],
        [said("c", { code: "sold-out", message: "None left.", retriable: true }), undefined],
    ]);
    assert.deepEqual([session.seq, session.unanswered], [4, []]);
    assert.throws(() => session.answer("reserve", 1), /nothing was sent that waits for an answer "reserve"/);
    handle((cx) => cx.send("stock/a", 1, { replyAs: "reserve" }));
    assert.throws(() => session.answer("reserve", 1, { from: "stock/b" }), /of stock\/b; .*\[\["reserve","stock\/a"\]\]/);
});

test("outcomes need a function of their own, or bytes", () => {
    const { session, handle } = doing();
    const asks = (cx) => cx.send("stock/a", 1, { replyAs: "r" });
    handle(asks);
    assert.throws(() => session.answer("r", {}), { code: "no-answers" });
    assert.deepEqual(session.unanswered, [], "it is given up");
    handle(asks);
    assert.throws(() => session.refuse("r", "gone", "Gone."), { code: "no-answers" });

    const raw = new Harness(rawHandler({
        handle: (cx, body) => {
            if (cx.origin.kind === "client") asks(cx);
            return Reply.json([cx.contentType, body.length]);
        },
    }));
    raw.sendBytes("ann", "x/y", "");
    assert.deepEqual(raw.answer("r", Reply.text("four")), ["text/plain; charset=utf-8", 4]);
    raw.sendBytes("ann", "x/y", "");
    assert.deepEqual(raw.refuse("r", "gone", "Gone."), ["application/octet-stream", 0]);

    const text = doing(undefined, { answer: (cx, answer, reply) => reply });
    text.handle(asks);
    assert.throws(() => text.session.answer("r", Reply.text("hi")), { code: "bad-message" });
});

test("an outcome that fails is tried again, and given up", () => {
    let failure;
    const answer = (cx, { attempt }) => {
        cx.state.set("half", 1);
        if (failure !== undefined) throw failure;
        return attempt;
    };
    const { session, handle } = doing(undefined, { answer });
    const asks = (cx) => cx.send("stock/a", 1, { replyAs: "r" });
    handle(asks);
    failure = new Error("oh");
    assert.throws(() => session.answer("r", 1), Trapped);
    failure = new Rejection("busy", "Not yet.", { retriable: true });
    assert.throws(() => session.answer("r", 1), { code: "busy" });
    assert.deepEqual([session.keys(), session.unanswered.length], [[], 1]);
    failure = undefined;
    assert.equal(session.answer("r", 1), 3);

    handle(asks);
    failure = new Rejection("no", "Never.");
    assert.throws(() => session.answer("r", 1), { code: "no" });
    assert.deepEqual(session.unanswered, []);
    handle(asks);
    failure = new Error("oh");
    for (let i = 0; i < limits.sendAttempts; i++) assert.throws(() => session.answer("r", 1), Trapped);
    assert.deepEqual(session.unanswered, []);
});

test("addresses and names that can't be are refused", () => {
    const { session, handle } = doing();
    const why = (to, options) => handle((cx) => {
        try {
            cx.send(to, 1, options);
        } catch (error) {
            // The handler may go on: nothing was sent.
            return [error.code, error.retriable, error.message];
        }
        return "sent";
    });
    for (const [to, replyAs, says] of [
        ["stock", undefined, /"stock" is no address of a session: write "service\/session"/],
        ["/a", undefined, /a service name must have 1 to 64 bytes; this one has 0/],
        [`${"x".repeat(65)}/a`, undefined, /1 to 64 bytes; this one has 65/],
        ["Stock/a", undefined, /service name "Stock": use a-z/],
        ["-a/a", undefined, /starting with a letter or digit/],
        ["stock/", undefined, /a session id must have 1 to 256 bytes; this one has 0/],
        [`stock/${"ä".repeat(129)}`, undefined, /this one has 258/],
        ["stock/a\nb", undefined, /session id "a\\nb" has a control character/],
        ["stock/a", "", /the name of a reply must have 1 to 128 bytes; this one has 0/],
        ["stock/a", "ä".repeat(65), /this one has 130/],
        ["stock/a", "a\u0085", /the name of a reply has no control characters/],
    ]) {
        const [code, retriable, message] = why(to, { replyAs });
        assert.deepEqual([code, retriable], ["bad-send", false], to);
        assert.match(message, says);
    }
    assert.deepEqual(session.sent, []);
    assert.throws(() => handle((cx) => cx.send("stock", 1)), { code: "bad-send" });
    for (const what of [
        (cx) => cx.send(7, 1),
        (cx) => cx.send(undefined, 1),
        (cx) => cx.send({ service: "a" }, 1),
        (cx) => cx.send("a/\ud800", 1),
        (cx) => cx.send("a/b", 1, { replyAs: 7 }),
        (cx) => cx.send("a/b", () => 1),
    ]) {
        assert.throws(() => handle(what), (error) => error instanceof Trapped && error.cause instanceof TypeError);
    }
    assert.equal(why(`${"x".repeat(64)}/${"ä".repeat(128)}`, { replyAs: "ä".repeat(64) }), "sent");
    assert.equal(why("0-_.9/ a/b", { replyAs: null }), "sent");
});

test("limits of sends are the host's", () => {
    const { session, handle } = doing();
    const many = (count) => (cx) => { for (let i = 0; i < count; i++) cx.send("a/b", i); };
    handle(many(256));
    assert.equal(session.sent.length, 256);
    assert.throws(() => handle(many(257)), /limit: sends: a message may send at most 256/);
    const big = (bytes) => (cx) => cx.send("a/b", Reply.bytes(new Uint8Array(bytes)));
    handle(big(262_144));
    assert.throws(() => handle(big(262_145)), /limit: sends: a body may have 262144 bytes; this one has 262145/);
    const typed = (type) => (cx) => cx.send("a/b", new Reply(type, new Uint8Array()));
    assert.throws(() => handle(typed("x".repeat(129))), /limit: the content type of a message may have 128 bytes/);
    assert.throws(() => handle(typed("ä")), /printable ASCII/);
    // A trap can't be caught.
    assert.throws(() => handle((cx) => { try { many(257)(cx); } catch { /* it goes on */ } }), Trapped);
    assert.equal(session.sent.length, 257);
});
