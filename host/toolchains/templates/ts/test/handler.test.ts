import assert from "node:assert/strict";
import { test } from "node:test";
import { Harness } from "slotd-guest/test";
import handler from "../src/handler.ts";

test("a changed mind counts once", () => {
    const poll = new Harness(handler);
    for (const [who, vote] of [["ann", "tea"], ["bob", "tea"], ["ann", "coffee"]] as const) {
        poll.send(who, { vote });
    }
    assert.deepEqual(poll.query({}), { tea: 1, coffee: 1 });
    assert.equal(poll.events.length, 3);
});

test("nobody can't vote", () => {
    const poll = new Harness(handler);
    assert.throws(() => poll.send(null, { vote: "tea" }), { code: "no-sender" });
    assert.deepEqual(poll.keys(), []);
});

test("only known versions are taken over", () => {
    const poll = new Harness(handler);
    poll.send("ann", { vote: "tea" });
    poll.migrate("0.1.0");
    assert.deepEqual(poll.query({}), { tea: 1 });
    assert.throws(() => poll.migrate("0.2.0"), /can't read the state of 0.2.0/);
});

test("what is no vote is refused", () => {
    const poll = new Harness(handler);
    for (const body of ["", "null", "{}", '{"vote": 1}']) {
        assert.throws(() => poll.sendBytes("ann", "application/json", body), { code: "bad-message" });
    }
});
