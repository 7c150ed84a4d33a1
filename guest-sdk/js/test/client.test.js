// Who a client was shown to be, against what the interface promises of a node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { handler } from "../src/index.js";
import { Harness } from "../src/test.js";

const says = ({ client }) => ({ kind: client?.kind, who: client?.subject, role: client?.claims.role });

const desk = handler({
    handle(cx) {
        cx.timers.after("later", "1s", "now");
        return says(cx);
    },
    query: says,
    migrate: (cx) => assert.equal(cx.client, undefined),
});

/** A test could not say who its client is; and a handler would take a timer's message for that client's. */
test("a client is who the test says", () => {
    const session = new Harness(desk);
    assert.deepEqual(session.send("zoe", {}), {});
    session.client = { kind: "accounts", subject: "ann", claims: { role: "staff", org: "tea" } };
    const ann = { kind: "accounts", who: "ann", role: "staff" };
    assert.deepEqual(session.send("zoe", {}), ann);
    assert.deepEqual(session.query({}), ann);
    assert.deepEqual(session.advance("1s").map((fired) => fired.json()), [{}]);
    assert.deepEqual(session.deliver("a/b", {}), {});
    session.migrate("1");
    session.client = { kind: "root" };
    assert.deepEqual(session.query({}), { kind: "root" });
    session.client = undefined;
    assert.deepEqual(session.query({}), {});
});
