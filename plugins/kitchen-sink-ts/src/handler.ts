// Does what its message says, with everything that the SDK has: what the conformance tests run in
// each language. A body of the content type `application/json` is `{"op": ..}`; any other is sent
// back. What is not understood is rejected: `bad-message`, in a query `bad-query`.
//
// A timer's message emits `fired`, with what it says of itself, and replies with that. Where its body is
// an `{"op": ..}`, that is done before; where it has `{"fails": N}`, N attempts are rejected for now.
// Another session's message does the same with `received`, and an answer with `answered`, where what is done is
// the `answer` of the body that was answered.
//
// What came of a request over HTTP is added to the list under the key `answers`, and emits `answered`; where there is a
// key `fail-answers`, it is rejected for now. Whether there are subscribers is added to the list under `presence`, and
// emits `presence`.

import {
    type Address,
    type AnswerOrigin,
    type Context,
    type HttpOptions,
    type HttpOrigin,
    type HttpStream,
    type Level,
    type QueryContext,
    rawHandler,
    Rejection,
    Reply,
    type SessionOrigin,
    type StateView,
    type TimerOrigin,
} from "slotd-guest";
import { forbidden } from "slotd-guest/raw";

type Fields = Record<string, unknown>;

export default rawHandler({
    handle(cx, body) {
        switch (cx.origin.kind) {
            case "timer":
                return fired(cx, cx.origin, body);
            case "session":
                return received(cx, cx.origin, body);
            case "answer":
                return answered(cx, cx.origin, body);
            case "http":
                return fetched(cx, cx.origin, body);
            case "presence":
                return told(cx, cx.origin.present);
            default:
                return reply(cx, body, "bad-message", (fields) => handle(cx, fields));
        }
    },
    query(cx, body) {
        return reply(cx, body, "bad-query", (fields) => query(cx, fields));
    },
    migrate(cx, from) {
        if (from === "0.0.9") return "no way from 0.0.9";
        if (from === "0.0.8") throw new Error("nobody knows 0.0.8");
        cx.state.set("migrated", { from });
    },
});

function fired(cx: Context, { name, dueMs, missed, attempt }: TimerOrigin, bytes: Uint8Array): Reply {
    const body: unknown = cx.parse(bytes);
    obey(cx, attempt, body);
    const said = { name, due: dueMs, missed, attempt, body };
    cx.emit("fired", said);
    return Reply.json(said);
}

function received(cx: Context, { sender, attempt, replyWanted }: SessionOrigin, bytes: Uint8Array): Reply {
    if (cx.contentType !== "application/json") return new Reply(cx.contentType, bytes);
    const body: unknown = cx.parse(bytes);
    obey(cx, attempt, body);
    const said = { from: shown(sender), attempt, reply: replyWanted, body };
    cx.emit("received", said);
    return Reply.json(said);
}

function answered(cx: Context, { name, sender, refusal, attempt }: AnswerOrigin, bytes: Uint8Array): Reply {
    const isJson = cx.contentType === "application/json";
    const body: unknown = refusal !== undefined ? null : isJson ? cx.parse(bytes) : toHex(bytes);
    // What was answered is part of another kitchen sink's reply.
    const { body: asked } = (body ?? {}) as Fields;
    obey(cx, attempt, ((asked ?? {}) as Fields).answer);
    const said = { name, from: shown(sender), attempt, refusal: refusal ?? null, body };
    cx.emit("answered", said);
    return Reply.json(said);
}

function fetched(cx: Context, { id, response, failure, attempts, attempt }: HttpOrigin, bytes: Uint8Array): Reply {
    if (cx.state.has("fail-answers")) throw toldTo();
    const what = response === undefined ? { failure: failure.code } : { status: response.status };
    const said = { id, ...what, body: new TextDecoder().decode(bytes), attempts, attempt };
    append(cx, "answers", said);
    cx.emit("answered", said);
    return Reply.json(said);
}

function told(cx: Context, present: boolean): Reply {
    append(cx, "presence", present);
    cx.emit("presence", present);
    return Reply.json(present);
}

function append({ state }: Context, key: string, value: unknown): void {
    state.set(key, [...((state.get(key) ?? []) as unknown[]), value]);
}

/** Does what a body that was sent earlier says, if it says something. */
function obey(cx: Context, attempt: number, body: unknown): void {
    if (typeof body !== "object" || body === null) return;
    const { fails } = body as Fields;
    if (typeof fails === "number" && attempt <= fails) throw toldTo();
    if ("op" in body) understood("bad-message", body, (fields) => handle(cx, fields));
}

function toldTo(): Rejection {
    return new Rejection("told-to", "As told.", { retriable: true });
}

function shown({ service, session }: Address): string {
    return `${service}/${session}`;
}

/** A body that is not understood. */
class Unclear extends Error {}

function reply(
    cx: Context | QueryContext,
    body: Uint8Array,
    unclear: string,
    run: (fields: Fields) => unknown,
): Reply {
    if (cx.contentType !== "application/json") return new Reply(cx.contentType, body);
    return understood(unclear, cx.parse(body), run);
}

function understood(unclear: string, fields: unknown, run: (fields: Fields) => unknown): Reply {
    try {
        if (typeof fields !== "object" || fields === null) throw new Unclear("the body is no object");
        return Reply.json(run(fields as Fields));
    } catch (error) {
        throw error instanceof Unclear ? new Rejection(unclear, error.message) : error;
    }
}

function handle(cx: Context, fields: Fields): unknown {
    const { state } = cx;
    switch (fields.op) {
        case "context":
            return {
                session: cx.session,
                seq: cx.seq,
                id: cx.id ?? null,
                sender: cx.sender ?? null,
                content_type: cx.contentType,
            };
        case "set":
            state.set(text(fields, "key"), field(fields, "value"));
            return {};
        case "delete":
            state.delete(text(fields, "key"));
            return {};
        case "set-bytes":
            state.setBytes(text(fields, "key"), fromHex(text(fields, "hex")));
            return {};
        case "fill": {
            const [prefix, value] = [text(fields, "prefix"), "x".repeat(whole(fields, "bytes"))];
            const count = whole(fields, "count");
            for (let i = 0; i < count; i++) state.set(prefix + String(i).padStart(5, "0"), value);
            return {};
        }
        case "emit": {
            const [kind, value] = [text(fields, "kind"), field(fields, "value")];
            const times = whole(fields, "times");
            for (let i = 0; i < times; i++) cx.emit(kind, value);
            return {};
        }
        case "notify": {
            const [kind, value] = [text(fields, "kind"), field(fields, "value")];
            const times = whole(fields, "times");
            for (let i = 0; i < times; i++) cx.notify(kind, value);
            return {};
        }
        case "timer":
            return { due: setTimer(cx, fields) };
        case "cancel-timer":
            return { was: cx.timers.cancel(text(fields, "name")) };
        case "expire":
            expire(cx, fields);
            return {};
        case "keep":
            cx.keep();
            return {};
        case "send":
            send(cx, fields);
            return {};
        case "request":
            return request(cx, fields);
        case "cancel-request":
            return cx.http.cancel(text(fields, "id"));
        case "close":
            cx.close();
            return {};
        case "watch":
            cx.watchSubscribers(flag(fields, "wanted"));
            return {};
        case "log":
            cx.log(level(fields), text(fields, "text"));
            return {};
        case "print":
            console.log(text(fields, "text"));
            return {};
        case "add64": {
            const key = text(fields, "key");
            const sum = BigInt.asUintN(64, kept64(state, key) + n64(fields));
            state.set(key, sum);
            return { sum: sum.toString() };
        }
        case "deep":
            descend(whole(fields, "depth"));
            return {};
        case "spin":
            for (;;);
        case "allocate": {
            const held: Uint8Array[] = [];
            for (;;) held.push(new Uint8Array(8 * 1024 * 1024));
        }
        case "big":
            return { text: "x".repeat(whole(fields, "bytes")) };
        case "reject":
        case "throw": {
            if ((fields.set ?? null) !== null) state.set(text(fields, "set"), "written");
            return both(cx, fields);
        }
        default:
            return both(cx, fields);
    }
}

function query(cx: QueryContext, fields: Fields): unknown {
    switch (fields.op) {
        case "context":
            return { session: cx.session, seq: cx.seq, content_type: cx.contentType };
        case "set":
            forbidden(cx).state.set(text(fields, "key"), field(fields, "value"));
            return {};
        case "delete":
            forbidden(cx).state.delete(text(fields, "key"));
            return {};
        case "emit":
            forbidden(cx).emit(text(fields, "kind"), field(fields, "value"));
            return {};
        case "notify":
            forbidden(cx).notify(text(fields, "kind"), field(fields, "value"));
            return {};
        case "timer":
            return { due: setTimer(forbidden(cx), fields) };
        case "cancel-timer":
            return { was: forbidden(cx).timers.cancel(text(fields, "name")) };
        case "expire":
            expire(forbidden(cx), fields);
            return {};
        case "keep":
            forbidden(cx).keep();
            return {};
        case "send":
            send(forbidden(cx), fields);
            return {};
        case "request":
            return request(forbidden(cx), fields);
        case "cancel-request":
            return forbidden(cx).http.cancel(text(fields, "id"));
        case "close":
            forbidden(cx).close();
            return {};
        case "watch":
            forbidden(cx).watchSubscribers(flag(fields, "wanted"));
            return {};
        default:
            return both(cx, fields);
    }
}

/** What a message and a query have in common. */
function both(cx: Context | QueryContext, fields: Fields): unknown {
    const state: StateView = cx.state;
    switch (fields.op) {
        case "echo":
            return { value: field(fields, "value") };
        case "get":
            return { value: state.get(text(fields, "key")) ?? null };
        case "get-bytes": {
            const bytes = state.getBytes(text(fields, "key"));
            return { hex: bytes === undefined ? null : toHex(bytes) };
        }
        case "scan": {
            const after = (fields.after ?? null) === null ? undefined : text(fields, "after");
            const page = state.page(text(fields, "prefix"), after, whole(fields, "limit"));
            return { pairs: page.map(([key]) => [key, state.get(key)]) };
        }
        case "scan-all": {
            let [count, first, last]: [number, string | null, string | null] = [0, null, null];
            for (const [key] of state.scanBytes(text(fields, "prefix"))) {
                count += 1;
                first ??= key;
                last = key;
            }
            return { count, first, last };
        }
        case "timers":
            return cx.timers.list().map(({ name, dueMs, failures }) => ({ name, due: dueMs, failures }));
        case "client": {
            const { client } = cx;
            if (client === undefined) return null;
            const { kind, subject = null, claims } = client;
            return { kind, subject, claims };
        }
        case "open-requests":
            return cx.http.open();
        case "clock":
            return { time_ms: cx.timeMs, native_ms: Date.now() };
        case "random":
            return { hex: toHex(crypto.getRandomValues(new Uint8Array(16))), native: String(Math.random()) };
        case "reject":
            throw new Rejection(text(fields, "code"), text(fields, "message"), {
                retriable: flag(fields, "retriable"),
            });
        case "throw":
            throw new Error(text(fields, "message"));
        default:
            throw new Unclear("there is no such op");
    }
}

/** One of the four says when; in milliseconds. */
function setTimer({ timers }: Context, fields: Fields): number {
    const [name, body] = [text(fields, "name"), field(fields, "body")];
    const given = ["after", "at", "every", "cron"].filter((when) => (fields[when] ?? null) !== null);
    if (given.length !== 1) throw new Unclear("it takes one of `after`, `at`, `every` and `cron`");
    switch (given[0]) {
        case "after":
            return timers.after(name, whole(fields, "after"), body);
        case "at":
            return timers.at(name, whole(fields, "at"), body);
        case "every":
            return timers.every(name, whole(fields, "every"), body);
        default: {
            const cron: unknown = fields.cron;
            const [expression, zone]: unknown[] = Array.isArray(cron) && cron.length === 2 ? cron : [];
            if (typeof expression !== "string" || typeof zone !== "string") bad("cron", "expression and zone");
            return timers.cron(name, expression, zone, body);
        }
    }
}

/** One of the two says when; in milliseconds. */
function expire(cx: Context, fields: Fields): void {
    if (isGiven(fields, "after") === isGiven(fields, "at")) throw new Unclear("it takes one of `after` and `at`");
    cx.expire(isGiven(fields, "after") ? { after: whole(fields, "after") } : { at: whole(fields, "at") });
}

function send(cx: Context, fields: Fields): void {
    // It may be no address: the SDK says so, or the host.
    const to = text(fields, "to") as `${string}/${string}`;
    const replyAs = isGiven(fields, "reply") ? text(fields, "reply") : undefined;
    if (("body" in fields) === isGiven(fields, "hex")) throw new Unclear("it takes one of `body` and `hex`");
    const body = "body" in fields ? fields.body : Reply.bytes(fromHex(text(fields, "hex")));
    const times = isGiven(fields, "times") ? whole(fields, "times") : 1;
    for (let i = 0; i < times; i++) cx.send(to, body, { replyAs });
}

/** What is wrong with it, if something is. */
function request(cx: Context, fields: Fields): unknown {
    const [id, url] = [text(fields, "id"), text(fields, "url")];
    const init: HttpOptions & { method: string } = { method: text(fields, "method"), headers: pairs(fields, "headers") };
    // As bytes: text would say in a header that it is text.
    if (isGiven(fields, "body")) init.body = new TextEncoder().encode(text(fields, "body"));
    if (isGiven(fields, "options")) Object.assign(init, options(record(fields, "options")));
    try {
        cx.http.request(id, url, init);
        return null;
    } catch (error) {
        if (error instanceof Rejection && error.code === "bad-request") return { problem: error.message };
        throw error;
    }
}

function options(fields: Fields): HttpOptions {
    const given: HttpOptions = {};
    if (isGiven(fields, "timeout_ms")) given.timeout = whole(fields, "timeout_ms");
    if (isGiven(fields, "deadline_ms")) given.deadline = whole(fields, "deadline_ms");
    if (isGiven(fields, "attempts")) given.attempts = whole(fields, "attempts");
    if (isGiven(fields, "redirects")) given.redirects = whole(fields, "redirects");
    if (isGiven(fields, "answer_bytes")) given.answerBytes = whole(fields, "answer_bytes");
    if (isGiven(fields, "keep_headers")) given.keepHeaders = texts(fields, "keep_headers");
    if (isGiven(fields, "stream")) {
        const stream = record(fields, "stream");
        given.stream = { kind: text(stream, "kind"), form: form(stream) };
    }
    return given;
}

function form(stream: Fields): NonNullable<HttpStream["form"]> {
    if (stream.form === "text" || stream.form === "data") return stream.form;
    return { joined: text(record(stream, "form"), "joined") };
}

function record(fields: Fields, name: string): Fields {
    const value = fields[name];
    return typeof value === "object" && value !== null ? (value as Fields) : bad(name, "object");
}

function texts(fields: Fields, name: string): string[] {
    const value = fields[name];
    return Array.isArray(value) && value.every((one) => typeof one === "string") ? value : bad(name, "list of texts");
}

function pairs(fields: Fields, name: string): [string, string][] {
    const list: unknown = fields[name] ?? [];
    if (!Array.isArray(list)) bad(name, "list of pairs");
    return list.map((pair: unknown) => {
        const [first, second]: unknown[] = Array.isArray(pair) && pair.length === 2 ? pair : [];
        return typeof first === "string" && typeof second === "string" ? [first, second] : bad(name, "list of pairs");
    });
}

function isGiven(fields: Fields, name: string): boolean {
    return (fields[name] ?? null) !== null;
}

function descend(depth: number): number {
    return depth === 0 ? 0 : descend(depth - 1) + 1;
}

function bad(name: string, what: string): never {
    throw new Unclear(`\`${name}\` is missing, or is no ${what}`);
}

function field(fields: Fields, name: string): unknown {
    return Object.hasOwn(fields, name) ? fields[name] : bad(name, "value");
}

function text(fields: Fields, name: string): string {
    const value = fields[name];
    return typeof value === "string" ? value : bad(name, "text");
}

function whole(fields: Fields, name: string): number {
    const value = fields[name];
    return Number.isSafeInteger(value) && Number(value) >= 0 ? Number(value) : bad(name, "whole number");
}

const LEVELS: readonly unknown[] = ["trace", "debug", "info", "warn", "error"] satisfies Level[];

function level(fields: Fields): Level {
    return LEVELS.includes(fields.level) ? (fields.level as Level) : bad("level", "level of the log");
}

const MAX_64 = 2n ** 64n - 1n;

function n64(fields: Fields): bigint {
    const n = text(fields, "n");
    return /^\d{1,20}$/.test(n) && BigInt(n) <= MAX_64 ? BigInt(n) : bad("n", "u64 in decimal");
}

function kept64(state: StateView, key: string): bigint {
    const kept: unknown = state.get(key) ?? 0;
    if (typeof kept === "bigint" || Number.isSafeInteger(kept)) {
        const value = BigInt(kept as number | bigint);
        if (value >= 0n && value <= MAX_64) return value;
    }
    throw new Rejection("bad-state", `the value of ${JSON.stringify(key)} is no u64`);
}

function flag(fields: Fields, name: string): boolean {
    const value = fields[name];
    return typeof value === "boolean" ? value : bad(name, "flag");
}

function toHex(bytes: Uint8Array): string {
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function fromHex(hex: string): Uint8Array {
    if (!/^(?:[0-9a-f]{2})*$/i.test(hex)) bad("hex", "row of hexadecimal digits, two by two");
    return Uint8Array.from({ length: hex.length / 2 }, (_, i) => parseInt(hex.slice(2 * i, 2 * i + 2), 16));
}
