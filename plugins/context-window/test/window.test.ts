import assert from "node:assert/strict";
import { test } from "node:test";
import { Harness } from "slotd-guest/test";
import contextWindow from "../src/handler.ts";
import { estimate } from "../src/tokens.ts";

function conversation(budget: number, more: object = {}) {
    const session = new Harness<any, any>(contextWindow as any);
    session.send("app", { do: "configure", budget, ...more });
    const append = (content: string, more: object = {}) =>
        session.send("app", { do: "append", role: "user", content, tokens: 10, ...more });
    const contents = () => session.query({ what: "window" }).messages.map((m: any) => m.content);
    return { session, append, contents };
}

/** What it is for: the newest that fit, and what must never go. */
test("keeps the system prompt, the pinned and the newest", () => {
    const { session, append } = conversation(45, { system: "Be brief.", system_tokens: 10 });
    append("my name is Ann", { pin: true });
    append("one");
    append("two");
    const reply = append("three");
    assert.deepEqual(reply, {
        id: 4,
        tokens: 10,
        messages: [
            { role: "system", content: "Be brief." },
            { role: "user", content: "my name is Ann" },
            { role: "user", content: "two" },
            { role: "user", content: "three" },
        ],
        ids: [null, 1, 3, 4],
        used: 40,
        budget: 45,
    });
    const left = session.events.filter((event) => event.kind === "left");
    assert.deepEqual(left.map((event) => event.json()), [{ first: 2, last: 2, count: 1 }]);
});

/** The whole conversation stays, whatever the window has. */
test("what left the window can be read, and comes back", () => {
    const { session, append, contents } = conversation(20);
    for (const text of ["a", "b", "c", "d"]) append(text);
    assert.deepEqual(contents(), ["c", "d"]);
    const all = session.query({ what: "messages", after: 1, limit: 2 }).messages;
    assert.deepEqual(all.map((m: any) => [m.id, m.content]), [[2, "b"], [3, "c"]]);
    const wide = session.query({ what: "window", budget: 1000 });
    assert.equal(wide.messages.length, 4);
    assert.deepEqual(contents(), ["c", "d"]);
    session.send("app", { do: "pin", id: 1 });
    assert.deepEqual(contents(), ["a", "d"]);
    session.send("app", { do: "unpin", id: 1 });
    assert.deepEqual(contents(), ["c", "d"]);
    session.send("app", { do: "configure", budget: 35 });
    assert.deepEqual(contents(), ["b", "c", "d"]);
    session.send("app", { do: "configure", last: 1 });
    assert.deepEqual(contents(), ["d"]);
    assert.deepEqual(session.query({ what: "stats" }), {
        messages: 4,
        tokens: 40,
        pinned: 0,
        budget: 35,
        last: 1,
        system_tokens: 0,
        used: 10,
        first: 4,
    });
});

/** Most models refuse a tool's answer whose question they don't see. */
test("a window does not begin with a tool's answer", () => {
    const { append, contents } = conversation(30);
    append("what is the weather?");
    append("", { role: "assistant" });
    append("sunny", { role: "tool" });
    append("It is sunny.", { role: "assistant" });
    append("thanks");
    assert.deepEqual(contents(), ["It is sunny.", "thanks"]);
});

/** A message that can't be given to the model must be refused, not dropped in silence. */
test("what can't fit is refused, and changes nothing", () => {
    const { session, append, contents } = conversation(30);
    append("pinned", { pin: true });
    append("new");
    assert.throws(() => append("long", { tokens: 21 }), { code: "over-budget" });
    assert.throws(() => session.send("app", { do: "configure", budget: 9 }), { code: "over-budget" });
    assert.throws(() => session.query({ what: "window", budget: 5 }), { code: "over-budget" });
    assert.throws(() => session.send("app", { do: "pin", id: 7 }), { code: "no-message" });
    for (const bad of [null, [], {}, { do: "x" }, { do: "append", role: "me", content: "" }, { do: "pin", id: 0 }]) {
        assert.throws(() => session.send("app", bad), { code: "bad-message" });
    }
    assert.throws(() => session.query({ what: "x" }), { code: "bad-query" });
    assert.deepEqual(contents(), ["pinned", "new"]);
    assert.equal(session.seq, 3);
});

/** Tokens that are said to be none must not make a window that no reply can hold. */
test("a window fits into a reply", () => {
    const { session, append } = conversation(1000);
    for (let i = 0; i < 8; i++) append("\u0001".repeat(30_000), { tokens: 0 });
    const { messages } = session.query({ what: "window" });
    assert.ok(messages.length >= 3 && messages.length < 8, String(messages.length));
});

/** The estimate is rough, but must not be off by a language. */
test("tokens are estimated", () => {
    assert.equal(estimate(""), 4);
    assert.equal(estimate("The quick brown fox jumps over the lazy dog."), 4 + 11);
    assert.equal(estimate("天地玄黄宇宙洪荒"), 4 + 8);
    assert.equal(estimate("Съешь ещё этих мягких булок"), 4 + 17);
});

/** The window is kept up step by step; here it is worked out from the whole each time. */
test("the window is what one would work out", () => {
    let random = 1;
    const below = (n: number) => {
        random = (random * 48271) % 2147483647;
        return random % n;
    };
    for (let round = 0; round < 30; round++) {
        const budget = 60 + below(60);
        const { session } = conversation(budget);
        let config = { budget, last: null as number | null };
        const entries: { id: number; role: string; tokens: number }[] = [];
        const pins = new Set<number>();
        for (let step = 0; step < 60; step++) {
            const [id, tokens] = [1 + below(entries.length + 1), below(25)];
            const attempt = (message: object, then: () => void) => {
                try {
                    session.send("app", message);
                } catch (error: any) {
                    assert.match(error.code, /over-budget|no-message/);
                    return;
                }
                then();
            };
            switch (below(8)) {
                case 0:
                    attempt({ do: "pin", id }, () => pins.add(id));
                    break;
                case 1:
                    attempt({ do: "unpin", id }, () => pins.delete(id));
                    break;
                case 2: {
                    const next = { budget: 40 + below(80), last: below(2) === 0 ? null : 1 + below(6) };
                    attempt({ do: "configure", ...next }, () => (config = next));
                    break;
                }
                default: {
                    const role = (["user", "assistant"] as const)[below(2)]!;
                    const message = { do: "append", role, content: "x", tokens };
                    attempt(message, () => entries.push({ id: entries.length + 1, role, tokens }));
                }
            }
            let used = entries.filter((e) => pins.has(e.id)).reduce((sum, e) => sum + e.tokens, 0);
            const expected = entries.filter((e) => pins.has(e.id)).map((e) => e.id);
            let unpinned = 0;
            for (const entry of entries.filter((e) => !pins.has(e.id)).reverse()) {
                used += entry.tokens;
                unpinned += 1;
                if (used > config.budget || unpinned > (config.last ?? Infinity)) break;
                expected.push(entry.id);
            }
            expected.sort((a, b) => a - b);
            const { ids, used: told } = session.query({ what: "window" });
            assert.deepEqual(ids, expected, `round ${round}, step ${step}`);
            const sum = entries.filter((e) => ids.includes(e.id)).reduce((sum, e) => sum + e.tokens, 0);
            assert.equal(told, sum);
        }
    }
});
