// Runs a handler in Node.js under the host's rules, so that `node --test` needs no WebAssembly.

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { Context, MigrateContext, QueryContext } from "./context.js";
import { isRejection } from "./error.js";
import { Chance, define, globals } from "./globals.js";
import { callHandle, callMigrate, callQuery, unfit } from "./handler.js";
import { parse, parseBytes, stringifyBytes } from "./json.js";
import { Reply } from "./reply.js";
import { describe } from "./trace.js";

// A component's local time is UTC.
process.env.TZ = "UTC";

export const limits = Object.freeze({
    hostCalls: 100_000,
    keyBytes: 1024,
    valueBytes: 1024 * 1024,
    writeBytes: 4 * 1024 * 1024,
    scanEntries: 1000,
    scanBytes: 4 * 1024 * 1024,
    replyBytes: 1024 * 1024,
    events: 256,
    eventBytes: 1024 * 1024,
    notified: 64,
    notifiedBytes: 256 * 1024,
    logLines: 100,
    logLineBytes: 2048,
});

export class Trapped extends Error {
    constructor(reason, cause) {
        super(reason, cause === undefined ? undefined : { cause });
        this.name = "Trapped";
    }
}

export class Refused extends Error {
    constructor(reason) {
        super(reason);
        this.name = "Refused";
    }
}

class Event {
    constructor(seq, kind, contentType, body) {
        this.seq = seq;
        this.kind = kind;
        this.contentType = contentType;
        this.body = body;
    }
    json() {
        return parseBytes(this.body);
    }
}

function newSession() {
    return { name: "session", seq: 0, timeMs: 1_700_000_000_000, state: new Map(), events: [], notified: [] };
}

export class Harness {
    #handler;
    #log = [];

    constructor(handler, session = {}) {
        const why = unfit(handler);
        if (why !== undefined) throw new TypeError(`this is no handler: ${why}`);
        this.#handler = handler;
        this.session = { ...newSession(), ...session };
    }

    reset() {
        this.session = newSession();
        this.#log = [];
    }

    send(sender, message) {
        return valueOf(this.sendBytes(sender, "application/json", toJson(message)));
    }
    sendBytes(sender, contentType, body) {
        const { session } = this;
        const seq = session.seq + 1;
        const reply = this.#call("handle", seq, (host) => {
            const cx = new Context(host, {
                session: session.name,
                seq,
                id: undefined,
                origin: { kind: "client", sender: sender ?? undefined },
                contentType,
                timeMs: session.timeMs,
            });
            return checked(callHandle(this.#handler, cx, toBody(body)));
        });
        session.seq = seq;
        return reply;
    }

    query(query) {
        return valueOf(this.queryBytes("application/json", toJson(query)));
    }
    queryBytes(contentType, body) {
        const { name, seq, timeMs } = this.session;
        return this.#call("query", seq, (host) => {
            const cx = new QueryContext(host, { session: name, seq, contentType, timeMs });
            return checked(callQuery(this.#handler, cx, toBody(body)));
        });
    }

    migrate(from) {
        this.#call("migrate", this.session.seq, (host) => {
            const { refused } = callMigrate(this.#handler, new MigrateContext(host), from);
            if (refused !== undefined) throw new Refused(refused);
        });
    }
    swap(next, from) {
        const harness = new Harness(next, this.session);
        harness.migrate(from);
        return harness;
    }

    get(key) {
        const bytes = this.session.state.get(key);
        return bytes === undefined ? undefined : parseBytes(bytes);
    }
    keys() {
        return [...this.session.state.keys()].sort(byBytes);
    }
    get seq() {
        return this.session.seq;
    }
    get events() {
        return this.session.events;
    }
    get notified() {
        return this.session.notified;
    }
    takeLog() {
        return this.#log.splice(0);
    }

    #call(mode, seq, call) {
        const { session } = this;
        const tx = new Transaction(mode, seq, session);
        try {
            const answer = surrounded(tx, session.timeMs, () => call(tx));
            // A trap can't be caught by the guest, whatever it tries.
            if (tx.trapped !== undefined) throw tx.trapped;
            session.events.push(...tx.events);
            session.notified.push(...tx.notified);
            return answer;
        } catch (thrown) {
            tx.rollBack();
            if (tx.trapped === undefined && (isRejection(thrown) || thrown instanceof Refused)) throw thrown;
            const trapped = tx.trapped ?? new Trapped(describe(thrown), thrown);
            tx.lines.push({ level: "error", text: trapped.message });
            throw trapped;
        } finally {
            this.#log.push(...tx.lines);
        }
    }
}

/** Node.js has these, a component has not: a handler that needs one must fail here too. */
const NOT_THERE = [
    "AbortController", "Blob", "BroadcastChannel", "Buffer", "Event", "EventTarget", "FormData",
    "Headers", "Intl", "MessageChannel", "Request", "Response", "URL", "URLSearchParams",
    "WebAssembly", "WebSocket", "clearImmediate", "clearInterval", "clearTimeout", "fetch",
    "navigator", "process", "setImmediate", "setInterval", "setTimeout", "structuredClone",
].filter((name) => name in globalThis);

/** Runs `call` with the globals as a component has them, at the message's time. */
function surrounded(tx, timeMs, call) {
    const { values, random } = globals(new Chance(tx), (level, text) => tx.log(level, text));
    // Node.js's own are faster, and the same.
    const { TextEncoder: _encoder, TextDecoder: _decoder, ...own } = values;
    for (const name of NOT_THERE) own[name] = undefined;
    own.Date = dateAt(timeMs);
    const before = Object.keys(own).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]);
    const randomBefore = Math.random;
    define(globalThis, own);
    define(Math, { random });
    try {
        return call();
    } finally {
        define(Math, { random: randomBefore });
        for (const [name, descriptor] of before) Object.defineProperty(globalThis, name, descriptor);
    }
}

function dateAt(timeMs) {
    return new Proxy(Date, {
        construct: (target, args, newTarget) =>
            Reflect.construct(target, args.length === 0 ? [timeMs] : args, newTarget),
        apply: (target) => new target(timeMs).toString(),
        get: (target, name, receiver) => (name === "now" ? () => timeMs : Reflect.get(target, name, receiver)),
    });
}

function toJson(value) {
    const bytes = stringifyBytes(value);
    if (bytes === undefined) throw new TypeError("the test's own body has no form in JSON");
    return bytes;
}

function toBody(body) {
    return typeof body === "string" ? new TextEncoder().encode(body) : Uint8Array.from(body);
}

function valueOf(reply) {
    return reply.contentType.startsWith("application/json") ? parse(reply.text()) : reply;
}

function checked({ reply, rejected }) {
    if (rejected !== undefined) throw rejected;
    if (reply.body.length > limits.replyBytes) throw new Trapped(`limit: a reply of ${reply.body.length} bytes`);
    return new Reply(reply.contentType, reply.body.slice());
}

const MODES = { handle: 0, query: 1, migrate: 2 };

/** The host of one call. */
class Transaction {
    events = [];
    notified = [];
    lines = [];
    trapped;
    #mode;
    #seq;
    #session;
    #undo = [];
    #calls = 0;
    #written = 0;
    #eventBytes = 0;
    #notifiedBytes = 0;
    #sorted;
    #random = { counter: 0n, bytes: [] };

    constructor(mode, seq, session) {
        this.#mode = mode;
        this.#seq = seq;
        this.#session = session;
    }

    get(key) {
        this.#count();
        this.#checkKey(key);
        return this.#session.state.get(key)?.slice() ?? null;
    }
    set(key, value) {
        this.#write(key, value.slice());
    }
    delete(key) {
        this.#write(key, undefined);
    }
    scan(prefix, after, limit) {
        this.#count();
        this.#sorted ??= [...this.#session.state.keys()].sort(byBytes);
        const keys = this.#sorted;
        const page = [];
        let bytes = 0;
        const past = after !== undefined && byBytes(after, prefix) >= 0;
        for (let i = past ? firstAfter(keys, after) : firstFrom(keys, prefix); i < keys.length; i++) {
            const key = keys[i];
            if (!key.startsWith(prefix) || page.length >= Math.min(limit, limits.scanEntries)) break;
            const value = this.#session.state.get(key);
            bytes += byteLength(key) + value.length;
            if (page.length > 0 && bytes > limits.scanBytes) break;
            page.push([key, value.slice()]);
        }
        return page;
    }
    emit(kind, contentType, body) {
        this.#checkEvent("emit events", kind);
        this.#eventBytes += byteLength(kind) + contentType.length + body.length;
        if (this.events.length === limits.events || this.#eventBytes > limits.eventBytes) {
            this.#trap(`limit: more than ${limits.events} events or ${limits.eventBytes} bytes of them`);
        }
        this.events.push(new Event(this.#seq, kind, contentType, body.slice()));
    }
    notify(kind, contentType, body) {
        this.#checkEvent("send ephemeral events", kind);
        this.#notifiedBytes += byteLength(kind) + contentType.length + body.length;
        if (this.notified.length === limits.notified || this.#notifiedBytes > limits.notifiedBytes) {
            this.#trap(`limit: more than ${limits.notified} ephemeral events or ${limits.notifiedBytes} bytes of them`);
        }
        this.notified.push(new Event(this.#seq, kind, contentType, body.slice()));
    }
    #checkEvent(what, kind) {
        this.#count();
        if (this.#mode !== "handle") this.#trap(`only \`handle\` may ${what}`);
        if (kind === "" || /\s/.test(kind)) this.#trap(`${JSON.stringify(kind)} is no kind of event: one word`);
        if (kind === "error" || kind.startsWith("slotd.")) {
            this.#trap(`the event kind ${JSON.stringify(kind)} is reserved: slotd uses it itself`);
        }
    }
    log(level, text) {
        this.#count();
        if (this.lines.length < limits.logLines) this.lines.push({ level, text: cut(text, limits.logLineBytes) });
    }
    /** The same bytes for the same message, as the host makes them. */
    random(bytes) {
        const out = new Uint8Array(bytes);
        for (let i = 0; i < bytes; i++) {
            if (this.#random.bytes.length === 0) this.#random.bytes = [...this.#block()];
            out[i] = this.#random.bytes.shift();
        }
        return out;
    }
    #block() {
        const number = (value) => {
            const bytes = new Uint8Array(8);
            new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
            return bytes;
        };
        const seed = createHash("sha256")
            .update(`test\0${this.#session.name}\0`)
            .update(Uint8Array.of(MODES[this.#mode]))
            .update(number(this.#seq))
            .digest();
        return createHash("sha256").update(seed).update(number(this.#random.counter++)).digest();
    }

    rollBack() {
        for (const [key, before] of this.#undo.reverse()) {
            if (before === undefined) this.#session.state.delete(key);
            else this.#session.state.set(key, before);
        }
        this.#undo = [];
        this.events = [];
        this.notified = [];
    }

    #write(key, value) {
        this.#count();
        if (this.#mode === "query") this.#trap("a query may not write state");
        this.#checkKey(key);
        const bytes = value?.length ?? 0;
        if (bytes > limits.valueBytes) this.#trap(`limit: a value of ${bytes} bytes`);
        this.#written += byteLength(key) + bytes;
        if (this.#written > limits.writeBytes) this.#trap(`limit: more than ${limits.writeBytes} bytes written`);
        const { state } = this.#session;
        const before = state.get(key);
        this.#undo.push([key, before]);
        if ((before === undefined) !== (value === undefined)) this.#sorted = undefined;
        if (value === undefined) state.delete(key);
        else state.set(key, value);
    }
    #checkKey(key) {
        const bytes = byteLength(key);
        if (bytes > limits.keyBytes) this.#trap(`limit: a key of ${bytes} bytes`);
    }
    #count() {
        // Once it has trapped, nothing more of it runs.
        if (this.trapped !== undefined) throw this.trapped;
        this.#calls += 1;
        if (this.#calls > limits.hostCalls) this.#trap(`limit: more than ${limits.hostCalls} host calls`);
    }
    #trap(reason) {
        this.trapped = new Trapped(reason);
        throw this.trapped;
    }
}

function byteLength(text) {
    return Buffer.byteLength(text);
}

function byBytes(a, b) {
    return Buffer.compare(Buffer.from(a), Buffer.from(b));
}

/** The longest start of `text` that has at most `bytes` bytes. */
function cut(text, bytes) {
    const all = Buffer.from(text);
    if (all.length <= bytes) return text;
    let end = bytes;
    while ((all[end] & 0xc0) === 0x80) end--;
    return all.subarray(0, end).toString();
}

function firstFrom(keys, key) {
    return search(keys, (at) => byBytes(at, key) >= 0);
}

function firstAfter(keys, key) {
    return search(keys, (at) => byBytes(at, key) > 0);
}

function search(keys, is) {
    let [low, high] = [0, keys.length];
    while (low < high) {
        const middle = (low + high) >> 1;
        if (is(keys[middle])) high = middle;
        else low = middle + 1;
    }
    return low;
}
