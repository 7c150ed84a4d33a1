import assert from "node:assert/strict";
import { test } from "node:test";
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
    for (const op of ["set", "delete", "emit", "notify"]) {
        assert.throws(() => query({ op, key: "k", kind: "k", value: 1 }), Trapped);
    }
    assert.deepEqual([session.seq, session.keys()], [0, []]);
});

/** Sessions go from one language's kitchen sink to another's. */
test("comes from other versions", () => {
    const { session } = harness();
    assert.throws(() => session.migrate("0.0.9"), /no way from 0.0.9/);
    assert.throws(() => session.migrate("0.0.8"), Trapped);
    session.migrate("0.1.0");
    assert.deepEqual(session.get("migrated"), { from: "0.1.0" });
});
