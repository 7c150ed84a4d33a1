import assert from "node:assert/strict";
import { test } from "node:test";
import { Reply } from "slotd-guest";
import { Harness, Trapped } from "slotd-guest/test";
import kitchenSink from "../src/handler.ts";

function harness() {
    const session = new Harness(kitchenSink);
    return {
        session,
        send: (message: object) => session.send("ann", message),
        query: (query: object) => session.query(query),
    };
}

/** The conformance tests compare what comes back with what the other languages say. */
test("keeps, finds and forgets values", () => {
    const { send, query } = harness();
    const value = { "ключ": ["🦀", null, 1.5, { deep: [[]] }] };
    assert.deepEqual(send({ op: "echo", value }), { value });
    send({ op: "set", key: "a/1", value });
    send({ op: "set-bytes", key: "b", hex: "00ff80" });
    assert.deepEqual(query({ op: "get", key: "a/1" }), { value });
    assert.deepEqual(query({ op: "get-bytes", key: "b" }), { hex: "00ff80" });
    assert.deepEqual(query({ op: "get", key: "none" }), { value: null });
    send({ op: "delete", key: "b" });
    assert.deepEqual(query({ op: "get-bytes", key: "b" }), { hex: null });
    assert.throws(() => send({ op: "set" }), { code: "bad-message" });
    assert.throws(() => query({ op: "nothing" }), { code: "bad-query" });
});

/** A page that is taken for the whole would lose the rest. */
test("scans pages and all of it", () => {
    const { send, query } = harness();
    send({ op: "fill", prefix: "k/", count: 2500, bytes: 3 });
    assert.deepEqual(query({ op: "scan-all", prefix: "k/" }), {
        count: 2500,
        first: "k/00000",
        last: "k/02499",
    });
    assert.deepEqual(query({ op: "scan", prefix: "k/", after: "k/00009", limit: 2 }), {
        pairs: [["k/00010", "xxx"], ["k/00011", "xxx"]],
    });
});

/** Past 2^53 a JavaScript number would drop digits. */
test("adds 64 bits exactly", () => {
    const { session, send } = harness();
    const max = "18446744073709551615";
    assert.deepEqual(send({ op: "add64", key: "n", n: max }), { sum: max });
    assert.equal(session.get("n"), BigInt(max));
    assert.deepEqual(send({ op: "add64", key: "n", n: "2" }), { sum: "1" });
    assert.throws(() => send({ op: "add64", key: "n", n: "18446744073709551616" }), { code: "bad-message" });
});

/** A message that is applied again must give the same bytes. */
test("time and chance are the message's", () => {
    const [one, other] = [harness(), harness()];
    const clock = one.send({ op: "clock" });
    assert.equal(clock.time_ms, clock.native_ms);
    other.send({ op: "clock" });
    const random = one.send({ op: "random" });
    assert.deepEqual(other.send({ op: "random" }), random);
    assert.notDeepEqual(one.send({ op: "random" }), random);
    assert.notDeepEqual(one.query({ op: "random" }), one.send({ op: "random" }));
});

/** All or nothing. */
test("a rejection and a trap leave nothing", () => {
    const { session, send, query } = harness();
    const refusal = { code: "no-way", message: "Not today.", retriable: true };
    assert.throws(() => send({ op: "reject", ...refusal, set: "k" }), refusal);
    assert.throws(() => send({ op: "throw", message: "oh", set: "k" }), Trapped);
    for (const op of ["set", "delete", "emit", "notify", "timer", "cancel-timer", "expire", "keep", "send"]) {
        assert.throws(() => query({ op, key: "k", kind: "k", value: 1, name: "n", after: 1, to: "a/b", body: 1 }), Trapped);
    }
    for (const op of ["request", "cancel-request", "close", "watch"]) {
        assert.throws(() => query({ op, id: "a", method: "GET", url: "https://example.com", wanted: true }), Trapped);
    }
    assert.deepEqual([session.seq, session.keys()], [0, []]);
});

/** A timer that is set in one language fires in another. */
test("sets timers as it is told", () => {
    const { session, send, query } = harness();
    const now = session.session.timeMs;
    assert.deepEqual(send({ op: "timer", name: "b", after: 50, body: { "ä": 1 } }), { due: now + 50 });
    assert.deepEqual(send({ op: "timer", name: "a", at: 7, body: null }), { due: now });
    assert.deepEqual(send({ op: "timer", name: "c", every: 100, body: { fails: 1 } }), { due: now + 100 });
    send({ op: "timer", name: "d", cron: ["0 9 * * 1-5", "Europe/Berlin"], body: 1 });
    assert.deepEqual(send({ op: "cancel-timer", name: "d" }), { was: true });
    assert.deepEqual(send({ op: "cancel-timer", name: "d" }), { was: false });
    const listed = [
        { name: "a", due: now, failures: 0 },
        { name: "b", due: now + 50, failures: 0 },
        { name: "c", due: now + 100, failures: 0 },
    ];
    assert.deepEqual([send({ op: "timers" }), query({ op: "timers" })], [listed, listed]);
    for (const when of [{ every: 99 }, { cron: ["61 * * * *", "UTC"] }]) {
        assert.throws(() => send({ op: "timer", name: "e", ...when, body: 1 }), { code: "bad-moment" });
    }
    for (const when of [{}, { after: 1, at: 1 }, { after: -1 }, { cron: ["* * * * *"] }]) {
        assert.throws(() => send({ op: "timer", name: "e", ...when, body: 1 }), { code: "bad-message" });
    }
    const [a, b, c] = session.advance("100ms");
    assert.deepEqual(a?.json(), { name: "a", due: now, missed: 0, attempt: 1, body: null });
    const said = { name: "b", due: now + 50, missed: 0, attempt: 1, body: { "ä": 1 } };
    assert.deepEqual([b?.json(), b?.events[0]?.kind, b?.events[0]?.json()], [said, "fired", said]);
    assert.throws(() => c?.json(), { code: "told-to", retriable: true });
    send({ op: "timer", name: "d", after: 1, body: { op: "set", key: "k", value: 7 } });
    session.advance("1ms");
    assert.equal(session.get("k"), 7);
});

/** What is sent from one language is handled in another. */
test("expires as it is told", () => {
    const { session, send } = harness();
    const now = session.session.timeMs;
    for (const [told, expires] of [
        [{ op: "expire", after: 50 }, now + 50],
        [{ op: "keep" }, undefined],
        [{ op: "expire", at: 5 }, now],
    ] as const) {
        assert.deepEqual([send(told), session.expires], [{}, expires]);
    }
    for (const wrong of [{}, { after: 1, at: 1 }]) {
        assert.throws(() => send({ op: "expire", ...wrong }), { code: "bad-message" });
    }
    assert.throws(() => send({ op: "expire", at: 2 ** 53 - 1 }), { code: "bad-moment" });
    session.advance(0);
    assert.equal(session.seq, 0);
});

test("sends as it is told, and says what comes", () => {
    const { session, send } = harness();
    assert.deepEqual(send({ op: "send", to: "sink/a/b", body: { "ä": 1 }, reply: "r" }), {});
    send({ op: "send", to: "sink/c", hex: "00ff", times: 2 });
    send({ op: "send", to: "sink/c", body: null, times: 0 });
    assert.deepEqual(session.sent.map(({ to, contentType, replyAs }) => [to, contentType, replyAs]), [
        ["sink/a/b", "application/json", "r"],
        ["sink/c", "application/octet-stream", undefined],
        ["sink/c", "application/octet-stream", undefined],
    ]);
    for (const [wrong, code] of [
        [{ to: "sink", body: 1 }, "bad-send"],
        [{ to: "Sink/a", body: 1 }, "bad-send"],
        [{ to: "sink/a", body: 1, reply: "" }, "bad-send"],
        [{ to: "sink/a" }, "bad-message"],
        [{ to: "sink/a", body: 1, hex: "00" }, "bad-message"],
        [{ body: 1 }, "bad-message"],
    ] as const) {
        assert.throws(() => send({ op: "send", ...wrong }), { code });
    }

    const body = { op: "set", key: "k", value: 7 };
    const said = { from: "sink/a", attempt: 2, reply: true, body };
    assert.deepEqual(session.deliver("sink/a", body, { attempt: 2, replyWanted: true }), said);
    assert.deepEqual([session.get("k"), session.events[0]?.kind, session.events[0]?.json()], [7, "received", said]);
    assert.throws(() => session.deliver("sink/a", { fails: 1 }), { code: "told-to", retriable: true });
    assert.throws(() => session.deliver("sink/a", { op: "fly" }), { code: "bad-message" });
    assert.equal(session.deliver("sink/a", Reply.text("hi")).text(), "hi");

    const answer = { fails: 1, op: "set", key: "k", value: 8 };
    assert.throws(() => session.answer("r", { body: { answer } }), { code: "told-to", retriable: true });
    const outcome = { name: "r", from: "sink/a/b", attempt: 2, refusal: null, body: { body: { answer } } };
    assert.deepEqual(session.answer("r", { body: { answer } }), outcome);
    assert.deepEqual([session.get("k"), session.events[1]?.kind, session.events[1]?.json()], [8, "answered", outcome]);
    send({ op: "send", to: "sink/c", body: 1, reply: "r", times: 2 });
    assert.equal(session.answer("r", Reply.bytes(Uint8Array.of(0, 255))).body, "00ff");
    const refusal = { code: "no", message: "No.", retriable: false };
    assert.deepEqual(session.refuse("r", "no", "No."), { name: "r", from: "sink/c", attempt: 1, refusal, body: null });
});

/** What one language asks for, all do. */
test("makes requests as it is told, and says what comes", () => {
    const { session, send, query } = harness();
    const url = "https://api.example.com/é?k={{secret:K}}";
    const options = {
        timeout_ms: 1, deadline_ms: 2, attempts: 3, redirects: 4, answer_bytes: 5, keep_headers: ["x-*"],
        stream: { kind: "token", form: { joined: "a.0" } },
    };
    assert.equal(send({ op: "request", id: "a", method: "POST", url, headers: [["X-A", "b"]], body: "é", options }), null);
    assert.equal(send({ op: "request", id: "b", method: "GET", url, options: { stream: { kind: "k", form: "data" } } }), null);
    const [a, b] = session.requests;
    assert.deepEqual([a?.method, a?.url, a?.headers, a?.text()], ["POST", url, [["X-A", "b"]], "é"]);
    assert.deepEqual(a?.options, {
        timeoutMs: 1, deadlineMs: 2, attempts: 3, redirects: 4, answerBytes: 5, keepHeaders: ["x-*"],
        stream: { kind: "token", form: { tag: "joined", val: "a.0" } },
    });
    assert.deepEqual([b?.headers, b?.body.length, b?.options.stream?.form], [[], 0, { tag: "data" }]);
    const problem = "the number of attempts is 1 to 20, not 21";
    assert.deepEqual(send({ op: "request", id: "c", method: "GET", url, options: { attempts: 21 } }), { problem });
    for (const wrong of [{ id: 1 }, { url: 1 }, { method: 1 }, { headers: [["a"]] }, { options: 1 }, { options: { stream: { kind: "k", form: "json" } } }]) {
        assert.throws(() => send({ op: "request", id: "c", method: "GET", url, ...wrong }), { code: "bad-message" });
    }
    assert.deepEqual([send({ op: "open-requests" }), query({ op: "open-requests" })], [["a", "b"], ["a", "b"]]);
    assert.deepEqual([send({ op: "cancel-request", id: "b" }), send({ op: "cancel-request", id: "b" })], [true, false]);

    send({ op: "set", key: "fail-answers", value: null });
    assert.throws(() => session.respond("a", 200, { parts: ["hi"] }), { code: "told-to", retriable: true });
    send({ op: "delete", key: "fail-answers" });
    const said = { id: "a", status: 200, body: "hi", attempts: 1, attempt: 2 };
    assert.deepEqual(session.respond("a"), said);
    const answered = session.events.at(-1);
    assert.deepEqual([session.get("answers"), answered?.kind, answered?.json()], [[said], "answered", said]);

    send({ op: "request", id: "c", method: "GET", url });
    const failed = { id: "c", failure: "timeout", body: "", attempts: 5, attempt: 1 };
    assert.deepEqual(session.fail("c", "timeout", "Too slow.", { attempts: 5 }), failed);
    assert.deepEqual(session.get("answers"), [said, failed]);
});

test("watches and closes as it is told", () => {
    const { session, send, query } = harness();
    assert.deepEqual(send({ op: "watch", wanted: true }), {});
    assert.deepEqual([session.presence(true), session.presence(false)], [true, false]);
    assert.deepEqual(session.get("presence"), [true, false]);
    assert.deepEqual(session.events.map((event) => [event.kind, event.json()]), [["presence", true], ["presence", false]]);
    send({ op: "watch", wanted: false });
    assert.equal(session.watchesSubscribers, false);
    assert.deepEqual(send({ op: "close" }), {});
    assert.throws(() => send({ op: "close" }), { code: "session-closed" });
    assert.deepEqual(query({ op: "get", key: "presence" }), { value: [true, false] });
});

/** Who asks is looked up once for messages, and once for queries. */
test("says who its client is", () => {
    const { session, send, query } = harness();
    assert.deepEqual([send({ op: "client" }), query({ op: "client" })], [null, null]);
    session.client = { kind: "accounts", subject: "ann", claims: { role: "staff" } };
    const ann = { kind: "accounts", subject: "ann", claims: { role: "staff" } };
    assert.deepEqual([send({ op: "client" }), query({ op: "client" })], [ann, ann]);
    session.client = { kind: "root" };
    assert.deepEqual(query({ op: "client" }), { kind: "root", subject: null, claims: {} });
});

/** Sessions go from one language's kitchen sink to another's. */
test("comes from other versions", () => {
    const { session } = harness();
    assert.throws(() => session.migrate("0.0.9"), /no way from 0.0.9/);
    assert.throws(() => session.migrate("0.0.8"), Trapped);
    session.migrate("0.1.0");
    assert.deepEqual(session.get("migrated"), { from: "0.1.0" });
});
