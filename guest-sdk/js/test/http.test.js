// Requests over HTTP, sessions that close and presence, against what the interface promises of a node.

import assert from "node:assert/strict";
import { test } from "node:test";
import { handler, rawHandler, Rejection, Reply, secret } from "../src/index.js";
import { forbidden } from "../src/raw.js";
import { Closed, Harness, limits, Trapped } from "../src/test.js";

const URL = "https://api.example.com/v1/chat";

/** A handler that does what its message's function says; answers go to `httpAnswer`. */
function doing(more = {}) {
    let next;
    const session = new Harness(handler({
        handle: (cx) => next(cx),
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

/** What a handler does that asks once, as `llm`. */
const asks = (options) => (cx) => cx.http.post("llm", URL, options);

test("what is requested is what the test sees", () => {
    const { session, handle } = doing();
    handle((cx) => {
        cx.http.post("llm", URL, {
            json: { prompt: "hi" },
            headers: { Authorization: `Bearer ${secret("API_KEY")}`, "x-n": 7, accept: ["a/b", "c/d"] },
            timeout: "30s",
            deadline: "5m",
            attempts: 3,
            redirects: 0,
            answerBytes: 1000,
            keepHeaders: ["x-ratelimit-*"],
            stream: { kind: "token", form: { joined: "choices.0.delta.content" } },
        });
        cx.http.get("a", URL);
        cx.http.request("b", URL, { method: "PURGE", body: "é", headers: new Map([["Content-Type", "x/y"]]) });
        return cx.http.open();
    });
    const [llm, a, b] = session.requests;
    assert.deepEqual([llm.seq, llm.id, llm.method, llm.url, llm.json()], [1, "llm", "POST", URL, { prompt: "hi" }]);
    assert.deepEqual(llm.headers, [
        ["Authorization", "Bearer {{secret:API_KEY}}"],
        ["x-n", "7"],
        ["accept", "a/b"],
        ["accept", "c/d"],
        ["content-type", "application/json"],
    ]);
    assert.deepEqual(llm.options, {
        timeoutMs: 30_000,
        deadlineMs: 300_000,
        attempts: 3,
        redirects: 0,
        answerBytes: 1000,
        keepHeaders: ["x-ratelimit-*"],
        stream: { kind: "token", form: { tag: "joined", val: "choices.0.delta.content" } },
    });
    assert.deepEqual([a.method, a.headers, a.body.length, a.options.timeoutMs], ["GET", [], 0, undefined]);
    assert.deepEqual([b.method, b.headers, b.text(), b.header("content-TYPE")], ["PURGE", [["Content-Type", "x/y"]], "é", "x/y"]);
    assert.deepEqual(session.openRequests.map(({ id }) => id), ["a", "b", "llm"]);
});

test("bodies say what they are, as with fetch", () => {
    const { session, handle } = doing();
    const of = (options) => {
        handle(asks(options));
        const { headers, body } = session.requests.at(-1);
        return [headers, [...body]];
    };
    assert.deepEqual(of({ body: "hi" }), [[["content-type", "text/plain;charset=UTF-8"]], [104, 105]]);
    assert.deepEqual(of({ body: Uint8Array.of(0, 255) }), [[], [0, 255]]);
    assert.deepEqual(of({ body: new Reply("x/y", Uint8Array.of(1)) }), [[["content-type", "x/y"]], [1]]);
    assert.deepEqual(of({ json: null }), [[["content-type", "application/json"]], [...Buffer.from("null")]]);
    assert.deepEqual(of({ json: 7, headers: [["CONTENT-TYPE", "a/b"]] }), [[["CONTENT-TYPE", "a/b"]], [55]]);
});

test("requests go with their message, and queries make none", () => {
    const { session, handle, query } = doing();
    assert.throws(() => handle((cx) => {
        asks()(cx);
        throw new Error("told to");
    }), Trapped);
    assert.deepEqual([session.requests, session.openRequests], [[], []]);
    handle(asks());
    assert.throws(() => handle((cx) => {
        cx.http.cancel("llm");
        cx.http.get("other", URL);
        cx.close();
        cx.watchSubscribers();
        throw new Rejection("no", "No.");
    }), { code: "no" });
    assert.deepEqual([session.openRequests.length, session.requests.length, session.closed, session.watchesSubscribers], [1, 1, false, false]);
    for (const what of [asks(), (cx) => cx.http.cancel("llm"), (cx) => cx.close(), (cx) => cx.watchSubscribers()]) {
        assert.throws(() => query((cx) => what(forbidden(cx))), /only `handle` may/);
    }
    assert.deepEqual(query((cx) => [cx.http.open(), typeof cx.http.post, typeof cx.close]), [["llm"], "undefined", "undefined"]);
    const { session: migrating } = doing({ migrate: (cx) => cx.http });
    assert.doesNotThrow(() => migrating.migrate("1.0.0"));
});

test("one request of an id is open, and it can be cancelled", () => {
    const { session, handle } = doing({ httpAnswer: (cx, { id }) => id });
    handle(asks({ json: 1 }));
    handle(asks({ json: 2 }));
    assert.deepEqual([session.requests.length, session.openRequests.map((one) => one.json())], [2, [2]]);
    assert.deepEqual(handle((cx) => [cx.http.cancel("llm"), cx.http.cancel("llm")]), [true, false]);
    assert.throws(() => session.respond("llm"), /no request "llm" is open; there are \[\]/);
    assert.throws(() => session.fail("llm", "timeout"), /no request "llm" is open/);
});

test("an answer comes back under its id", () => {
    const told = [];
    const httpAnswer = (cx, of, body) => {
        assert.equal(of, cx.origin);
        told.push([of, body.contentType, body.text()]);
        return cx.http.open();
    };
    // An answer is no message: it is none of `parseMessage`'s.
    const parseMessage = (value) => (Object.keys(value).length === 0 ? value : assert.fail("it is no message"));
    const { session, handle } = doing({ httpAnswer, parseMessage });
    handle(asks({ keepHeaders: ["X-Ratelimit-*"] }));
    const headers = [["Server", "x"], ["Link", "a"], ["link", "b"], ["x-ratelimit-left", "5"]];
    assert.deepEqual(session.respond("llm", 429, { json: { é: 1 }, headers, attempts: 5 }), []);
    handle(asks());
    session.respond("llm");
    const rawHeaders = [["link", "a"], ["link", "b"], ["x-ratelimit-left", "5"], ["content-type", "application/json"]];
    const response = {
        status: 429,
        ok: false,
        headers: { link: "a, b", "x-ratelimit-left": "5", "content-type": "application/json" },
        rawHeaders,
    };
    assert.deepEqual(told, [
        [{ kind: "http", id: "llm", attempts: 5, attempt: 1, response, failure: undefined }, "application/json", '{"é":1}'],
        [
            { kind: "http", id: "llm", attempts: 1, attempt: 1, response: { status: 200, ok: true, headers: {}, rawHeaders: [] }, failure: undefined },
            "application/octet-stream",
            "",
        ],
    ]);
    assert.deepEqual([session.seq, session.openRequests], [4, []]);
});

test("a request that fails for good says why", () => {
    const { session, handle } = doing({ httpAnswer: (cx, { response, failure, attempts }, body) => [response ?? null, failure, attempts, body.text()] });
    handle(asks());
    const none = { code: "connect", reason: "Nobody there." };
    assert.deepEqual(session.fail("llm", "connect", "Nobody there.", { attempts: 5 }), [null, none, 5, ""]);
    handle(asks());
    const [, failure, , text] = session.fail("llm", "protocol", "It broke.", { status: 200, body: "half" });
    assert.deepEqual([failure.code, failure.response.status, text], ["protocol", 200, "half"]);
});

test("a body that is not JSON is the handler's to see", () => {
    const { session, handle } = doing({ httpAnswer: (cx, { response }, body) => (response.ok ? body.json() : body.text()) });
    handle(asks());
    assert.equal(session.respond("llm", 502, { body: "<html>", headers: { "content-type": "text/html" } }), "<html>");
    handle(asks());
    assert.throws(() => session.respond("llm", 200, { body: "<html>" }), { code: "bad-message", retriable: false });
    assert.deepEqual(session.openRequests, [], "it is given up");
});

test("an answer that fails is tried again, and given up", () => {
    let failure;
    const { session, handle } = doing({
        httpAnswer(cx, { attempt }) {
            cx.http.get("other", URL);
            cx.http.get("llm", URL);
            if (failure !== undefined) throw failure;
            return attempt;
        },
    });
    handle(asks({ json: 1 }));
    failure = new Error("oh");
    assert.throws(() => session.respond("llm"), Trapped);
    failure = new Rejection("busy", "Not yet.", { retriable: true });
    assert.throws(() => session.fail("llm", "timeout"), { code: "busy" });
    assert.deepEqual(session.openRequests.map((one) => [one.id, one.method]), [["llm", "POST"]]);
    failure = undefined;
    assert.equal(session.respond("llm"), 3);
    // It has asked again, under the same id too.
    assert.deepEqual(session.openRequests.map((one) => [one.id, one.method]), [["llm", "GET"], ["other", "GET"]]);
    failure = new Rejection("no", "Never.");
    assert.throws(() => session.respond("llm"), { code: "no" });
    assert.deepEqual(session.openRequests.map(({ id }) => id), ["other"]);
    failure = new Error("oh");
    for (let i = 0; i < limits.answerAttempts; i++) assert.throws(() => session.respond("other"), Trapped);
    assert.deepEqual(session.openRequests, []);
});

test("answers need a function of their own, or bytes", () => {
    const { session, handle } = doing();
    handle(asks());
    assert.throws(() => session.respond("llm"), { code: "no-requests" });
    assert.deepEqual(session.openRequests, []);
    assert.throws(() => new Harness(handler({ handle() {}, httpAnswer: 7 })), /`httpAnswer` of its default export is no function/);
    assert.throws(() => new Harness(handler({ handle() {}, presence: 7 })), /`presence` of its default export/);

    const raw = new Harness(rawHandler({
        handle: (cx, body) => {
            if (cx.origin.kind === "client") asks()(cx);
            return Reply.json([cx.origin.kind, cx.sender ?? null, cx.contentType, body.length]);
        },
    }));
    raw.sendBytes("ann", "x/y", "");
    assert.deepEqual(raw.respond("llm", 200, { body: "four" }), ["http", null, "text/plain; charset=utf-8", 4]);
});

test("a stream is shown in parts that have numbers", () => {
    const { session, handle } = doing({ httpAnswer: (cx, { attempts }, body) => [cx.seq, attempts, body.contentType, body.text()] });
    const shown = (from) => session.events.slice(from).map(({ seq, kind, contentType, body }) => [seq, kind, contentType, Buffer.from(body).toString()]);
    const text = "text/plain; charset=utf-8";

    handle(asks({ stream: { kind: "token", form: { joined: "delta" } } }));
    session.part("llm", "He", "l");
    session.part("llm", "lo");
    assert.deepEqual(session.respond("llm"), [4, 1, text, "Hello"]);
    assert.deepEqual(shown(0), [[2, "token", text, "Hel"], [3, "token", text, "lo"]]);

    handle(asks({ stream: { kind: "chunk" } }));
    assert.deepEqual(session.respond("llm", 200, { parts: ["a", ["b", "c"]], headers: { "content-type": "text/csv" } }), [8, 1, "text/csv", "abc"]);
    assert.deepEqual(shown(2), [[6, "chunk", text, "a"], [7, "chunk", text, "bc"]]);

    handle(asks({ stream: { kind: "event", form: "data" } }));
    session.part("llm", { a: 1 }, "two\nlines");
    assert.deepEqual(session.respond("llm"), [11, 1, "text/event-stream", 'data: {"a":1}\n\ndata: two\ndata: lines\n\n']);
    assert.deepEqual(shown(4), [[10, "event", text, '{"a":1}'], [10, "event", text, "two\nlines"]]);
});

test("a stream that begins again says so", () => {
    const { session, handle } = doing({ httpAnswer: (cx, { attempts }, body) => [attempts, body.text()] });
    handle(asks({ stream: { kind: "token", form: { joined: "delta" } } }));
    assert.deepEqual(session.restart("llm"), [], "nothing was shown");
    session.part("llm", "Hel");
    const [restarted] = session.restart("llm");
    assert.deepEqual([restarted.seq, restarted.kind, restarted.json()], [3, "slotd.restarted", { id: "llm", attempt: 3 }]);
    assert.deepEqual(session.respond("llm", 200, { parts: ["Bye"] }), [3, "Bye"]);

    handle(asks({ stream: { kind: "token" } }));
    // What came is not shown where the status is none of success.
    assert.deepEqual(session.respond("llm", 500, { body: "no" }), [1, "no"]);
    handle(asks());
    assert.throws(() => session.part("llm", "x"), /made without `stream`/);
});

test("options that can't be are refused, and nothing is done", () => {
    const { session, handle } = doing();
    const why = (options, id = "llm") => handle((cx) => {
        try {
            cx.http.post(id, URL, options);
        } catch (error) {
            return [error.code, error.retriable, error.message];
        }
        return "asked";
    });
    for (const [options, says, id] of [
        [{}, /the id of a request must have 1 to 128 bytes; this one has 0/, ""],
        [{}, /this one has 130/, "ä".repeat(65)],
        [{}, /the id of a request has no control characters/, "a\n"],
        [{ timeout: 0 }, /^the timeout of an attempt, in milliseconds, is 1 to 600000, not 0$/],
        [{ timeout: "11m" }, /not 660000/],
        [{ deadline: "25h" }, /^the deadline, in milliseconds, is 1 to 86400000, not 90000000$/],
        [{ deadline: "1000d" }, /not 4294967295/],
        [{ attempts: 0 }, /^the number of attempts is 1 to 20, not 0$/],
        [{ attempts: 21 }, /not 21/],
        [{ redirects: 11 }, /^at most 10 redirects are followed$/],
        [{ redirects: 1000 }, /at most 10/],
        [{ answerBytes: 1024 * 1024 + 1 }, /^the size of the answer's body is 1 to 1048576, not 1048577$/],
        [{ stream: { kind: "a", form: { joined: "a..b" } } }, /^a path has keys and numbers/],
        [{ stream: { kind: "a", form: { joined: "x".repeat(257) } } }, /256 bytes at most/],
    ]) {
        const [code, retriable, message] = why(options, id);
        assert.deepEqual([code, retriable], ["bad-request", false]);
        assert.match(message, says);
    }
    assert.deepEqual(session.requests, []);
    assert.equal(why({ timeout: "10m", deadline: "1d", attempts: 20, redirects: 10, answerBytes: 1024 * 1024 }), "asked");
});

test("what is no request at all ends the call", () => {
    const { session, handle } = doing();
    for (const what of [
        (cx) => cx.http.get(7, URL),
        (cx) => cx.http.get("a"),
        (cx) => cx.http.get("a", URL, { timeOut: 1 }),
        (cx) => cx.http.get("a", URL, { headers: { a: undefined } }),
        (cx) => cx.http.post("a", URL, { json: 1, body: "x" }),
        (cx) => cx.http.post("a", URL, { json: () => 1 }),
        (cx) => cx.http.post("a", URL, { body: 7 }),
        (cx) => cx.http.post("a", URL, { attempts: 1.5 }),
        (cx) => cx.http.post("a", URL, { timeout: "1 minute" }),
        (cx) => cx.http.post("a", URL, { stream: {} }),
        (cx) => cx.http.post("a", URL, { stream: { kind: "a", form: "json" } }),
        () => secret("a b"),
    ]) {
        assert.throws(() => handle(what), (error) => error instanceof Trapped && error.cause instanceof TypeError, String(what));
    }
    for (const [id, url, options, says] of [
        ["a", "ftp://a/", {}, /the URL must begin with https/],
        ["a", "/path", {}, /invalid URL/],
        ["a", "https://u:p@example.com/", {}, /put credentials in a header/],
        ["a", "https://example.com/{{secret:a-b}}", {}, /"a-b" is no name of a secret/],
        ["a", `https://example.com/${"x".repeat(8192)}`, {}, /limit: the URL/],
        ["a", URL, { method: "G ET" }, /invalid method/],
        ["a", URL, { method: "CONNECT" }, /CONNECT is not for requests/],
        ["a", URL, { headers: { "a b": "c" } }, /invalid header name/],
        ["a", URL, { headers: { Host: "c" } }, /slotd sets the header Host itself/],
        ["a", URL, { headers: { a: "b\r\nc: d" } }, /control characters/],
        ["a", URL, { headers: { a: "x".repeat(16 * 1024) } }, /limit: the headers/],
        ["a", URL, { headers: { a: "x".repeat(32 * 1024) } }, /limit: requests: the method, URL and headers of one may have 32768 bytes/],
        ["a", URL, { keepHeaders: Array(17).fill("a") }, /limit: requests: an answer may be asked to keep 16 headers more/],
        ["a", URL, { stream: { kind: "a b" } }, /no kind of event/],
        ["a", URL, { stream: { kind: "slotd.x" } }, /reserved/],
        ["a", URL, { headers: Array.from({ length: 65 }, () => ["a", "b"]) }, /limit: a request may have 64 headers/],
        ["a", URL, { body: new Uint8Array(262_145) }, /limit: requests: a body may have 262144 bytes; this one has 262145/],
    ]) {
        assert.throws(() => handle((cx) => cx.http.request(id, url, options)), (error) => error instanceof Trapped && says.test(error.message), says);
    }
    const many = (count) => (cx) => { for (let i = 0; i < count; i++) cx.http.get(`n${i}`, URL); };
    assert.throws(() => handle(many(17)), /limit: requests: a message may make at most 16/);
    assert.deepEqual([session.requests, session.openRequests], [[], []]);
    handle(many(16));
    handle((cx) => cx.http.get("s", `https://{{secret:HOST}}.example.com/?k=${secret("K")}`, { body: new Uint8Array(262_144) }));
    assert.equal(session.openRequests.length, 17);
});

test("a closed session takes no messages, and all that it waits for ends", () => {
    const { session, handle, query } = doing({ answer: () => 1, httpAnswer: () => 1, presence: () => 1 });
    assert.equal(handle((cx) => {
        cx.state.set("a", 1);
        cx.timers.after("t", 5);
        cx.send("stock/a", 1, { replyAs: "r" });
        asks()(cx);
        cx.watchSubscribers();
        cx.expire({ after: "1h" });
        cx.close();
        return "bye";
    }), "bye");
    assert.deepEqual(
        [session.closed, session.timers, session.unanswered, session.openRequests, session.watchesSubscribers, session.sent.length],
        [true, [], [], [], false, 1],
    );
    for (const what of [() => handle(() => 1), () => session.deliver("cart/ann", 1)]) {
        assert.throws(what, (error) => error instanceof Closed && error.code === "session-closed");
    }
    assert.throws(() => session.presence(true), /does not watch/);
    assert.deepEqual([query((cx) => cx.state.get("a")), session.seq], [1, 1]);
    session.advance("1h");
    assert.deepEqual([session.closed, handle((cx) => cx.seq)], [false, 1], "it begins anew");
});

test("presence is told to who watches", () => {
    let fails = false;
    const presence = (cx, present) => {
        if (fails) throw new Error("oh");
        cx.emit("presence", present);
        return [cx.origin, cx.sender ?? null, cx.contentType];
    };
    const { session, handle } = doing({ presence });
    assert.throws(() => session.presence(true), /does not watch/);
    handle((cx) => cx.watchSubscribers());
    assert.equal(session.watchesSubscribers, true);
    assert.deepEqual(session.presence(true), [{ kind: "presence", present: true }, null, "application/octet-stream"]);
    fails = true;
    assert.throws(() => session.presence(false), Trapped);
    assert.deepEqual([session.seq, session.events.map((event) => event.json())], [2, [true]]);
    handle((cx) => cx.watchSubscribers(false));
    assert.throws(() => session.presence(true), /does not watch/);

    const unaware = doing();
    unaware.handle((cx) => cx.watchSubscribers());
    assert.throws(() => unaware.session.presence(true), { code: "no-presence" });
});
