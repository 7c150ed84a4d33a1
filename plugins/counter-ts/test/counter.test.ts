import assert from "node:assert/strict";
import { test } from "node:test";
import { Harness } from "slotd-guest/test";
import counter from "../src/handler.ts";

/** The benchmark sends 32 arbitrary bytes: a body that is refused would stop it. */
test("any body adds one", () => {
    const session = new Harness(counter);
    const bodies = ["", new Uint8Array(32).fill(0xff), "{", "{}", "[1]", '{"sub": 1}'];
    for (const [i, body] of bodies.entries()) {
        assert.equal(session.sendBytes(null, "application/octet-stream", body).json(), i + 1);
    }
    assert.equal(session.query({}), bodies.length);
    assert.equal(session.events.length, 0);
});

/** A count that wraps around, or a bad `add` that counts as one, would be silently wrong. */
test("adds what it is told, or refuses", () => {
    const session = new Harness(counter);
    session.send(null, { add: 41 });
    session.send(null, { add: 0 });
    session.send(null, {});
    for (const add of [-1, 1.5, "1", null, 2n ** 64n]) {
        assert.throws(() => session.send(null, { add }), { code: "bad-add" });
    }
    assert.throws(() => session.send(null, { add: 2n ** 64n - 1n }), { code: "count-overflow" });
    assert.deepEqual([session.query({}), session.seq], [42, 3]);
});

/** Past 2^53 a JavaScript number would drop digits. */
test("counts exactly to the end", () => {
    const session = new Harness(counter);
    assert.equal(session.send(null, { add: 2n ** 64n - 2n }), 2n ** 64n - 2n);
    assert.equal(session.send(null, {}), 2n ** 64n - 1n);
    assert.equal(new TextDecoder().decode(session.session.state.get("count")), "18446744073709551615");
});
