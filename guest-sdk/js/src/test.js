// Runs a handler in Node.js under the host's rules, so that `node --test` needs no WebAssembly.

import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { Context, MigrateContext, QueryContext } from "./context.js";
import { isRejection } from "./error.js";
import { Chance, define, globals } from "./globals.js";
import { callHandle, callMigrate, callQuery, unfit } from "./handler.js";
import { parse, parseBytes, stringifyBytes } from "./json.js";
import { Reply } from "./reply.js";
import { toAddress } from "./sends.js";
import { answerOf, failureOf, httpLimits, opened, partOf, Requested, requestFault, requestProblem } from "./test-http.js";
import { Timer, toMs } from "./timers.js";
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
    timers: 1000,
    timerNameBytes: 128,
    timerBytes: 1024 * 1024,
    timerBodyBytes: 64 * 1024,
    timerChanges: 256,
    timerPeriodMs: 100,
    // The last time that a timer can be set for, or a session can expire at: the year 9000 or so.
    timerMs: 221_845_392_000_000,
    timerCronBytes: 128,
    timerAttempts: 20,
    timerRetryMs: 5 * 60 * 1000,
    fired: 100_000,
    // Messages to other sessions, of one message.
    sends: 256,
    sendBodyBytes: 256 * 1024,
    sendNameBytes: 128,
    sendAttempts: 20,
    serviceNameBytes: 64,
    sessionIdBytes: 256,
    contentTypeBytes: 128,
    ...httpLimits,
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

/** The session takes no more messages. */
export class Closed extends Error {
    code = "session-closed";
    constructor(session) {
        super(`the session ${JSON.stringify(session)} is closed`);
        this.name = "Closed";
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

/** A message to another session. */
class Sent {
    constructor(fields) {
        Object.assign(this, fields);
    }
    json() {
        return parseBytes(this.body);
    }
    text() {
        return new Reply(this.contentType, this.body).text();
    }
}

/** What became of a timer's message. */
class Fired {
    constructor(fields) {
        Object.assign(this, { reply: undefined, error: undefined, ...fields });
    }
    /** The reply from JSON; throws what the handler failed with. */
    json() {
        if (this.error !== undefined) throw this.error;
        return this.reply.json();
    }
}

/** Which of its times a timer's message is for, and the timer that is left. */
function nextOf(timer, timeMs) {
    const { when, dueMs, failures } = timer;
    const left = (ms) => (ms > limits.timerMs ? undefined : { ...timer, dueMs: ms, nextMs: ms, failures: 0 });
    if (when.tag === "every") {
        const period = Math.max(when.val, limits.timerPeriodMs);
        const missed = Math.max(0, Math.floor((timeMs - dueMs) / period));
        return { dueMs, missed, left: left(dueMs + period * (missed + 1)) };
    }
    // Its times are the test's.
    if (when.tag === "cron") return { dueMs: failures === 0 ? timeMs : dueMs, missed: 0, left: left(timeMs) };
    return { dueMs, missed: 0, left: undefined };
}

function put(session, name, timer) {
    if (timer === undefined) session.timers.delete(name);
    else session.timers.set(name, timer);
}

function shownTimer([name, { dueMs, contentType, body, failures }]) {
    return new Timer({ name, dueMs, contentType, body: body.slice(), failures });
}

/** The least and the greatest number of each field of a cron expression. */
const CRON_FIELDS = [[0, 59], [0, 23], [1, 31], [1, 12], [0, 7]];

/** Why it is none, as far as it can be said here: the rest is the node's to say. */
function cronProblem({ expression, zone }) {
    const max = limits.timerCronBytes;
    if (byteLength(expression) > max || byteLength(zone) > max) {
        return `a cron expression and a time zone may have ${max} bytes each`;
    }
    const fields = expression.split(/\s+/).filter((field) => field !== "");
    const shown = JSON.stringify(expression);
    if (fields.length !== CRON_FIELDS.length) {
        return `a cron expression has five fields (minute, hour, day of the month, month, day of the week); ${shown} has ${fields.length}`;
    }
    if (!isZone(zone)) return `there is no time zone ${JSON.stringify(zone)}; an example is "Europe/Berlin"`;
    const fits = (field, [least, most]) => field.split(",").every((part) => {
        const [base] = part.split(/[/#]/);
        const numbers = base.split("-").filter((end) => /^\d+$/.test(end)).map(Number);
        return base !== "" && /^[a-z0-9*/#?-]+$/i.test(part) && numbers.every((number) => least <= number && number <= most);
    });
    return fields.every((field, i) => fits(field, CRON_FIELDS[i])) ? undefined : `${shown} is no cron expression`;
}

const { DateTimeFormat } = Intl;

function isZone(zone) {
    try {
        return /^[a-z]/i.test(zone) && new DateTimeFormat("en", { timeZone: zone }) !== undefined;
    } catch {
        return false;
    }
}

function newSession() {
    return {
        name: "session",
        seq: 0,
        timeMs: 1_700_000_000_000,
        state: new Map(),
        events: [],
        notified: [],
        timers: new Map(),
        expiresMs: undefined,
        dead: [],
        sent: [],
        unanswered: [],
        requests: [],
        openRequests: new Map(),
        closed: false,
        watchesSubscribers: false,
    };
}

export class Harness {
    /** Who the client is shown to be that sends and asks from now on. */
    client = undefined;
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
        this.client = undefined;
        this.#log = [];
    }

    send(sender, message) {
        return valueOf(this.sendBytes(sender, "application/json", toJson(message)));
    }
    sendBytes(sender, contentType, body) {
        return this.#handle({ kind: "client", sender: sender ?? undefined }, contentType, toBody(body));
    }
    #handle(origin, contentType, body) {
        const { session } = this;
        if (session.closed) throw new Closed(session.name);
        const seq = session.seq + 1;
        const reply = this.#call("handle", seq, (host) => {
            const cx = new Context(host, {
                session: session.name,
                seq,
                id: undefined,
                origin,
                contentType,
                timeMs: session.timeMs,
            });
            return checked(callHandle(this.#handler, cx, body));
        }, { isFiring: origin.kind === "timer", client: origin.kind === "client" ? this.client : undefined });
        session.seq = seq;
        return reply;
    }

    deliver(from, message, { attempt = 1, replyWanted = false } = {}) {
        const origin = { kind: "session", sender: addressOf(from), attempt, replyWanted };
        const { contentType, body } = toReply(message);
        return valueOf(this.#handle(origin, contentType, body.slice()));
    }
    answer(name, reply, { from } = {}) {
        return this.#outcome(name, from, undefined, toReply(reply));
    }
    refuse(name, code, message, { retriable = false, from } = {}) {
        // A node gives it no body, and no content type.
        const nothing = { contentType: "application/octet-stream", body: new Uint8Array() };
        return this.#outcome(name, from, { code: String(code), message: String(message), retriable }, nothing);
    }
    #outcome(name, from, refusal, { contentType, body }) {
        const { unanswered } = this.session;
        const sender = from === undefined ? undefined : addressOf(from);
        const to = sender && shownAddress(sender);
        const at = unanswered.findIndex(({ sent }) => sent.replyAs === name && (to === undefined || sent.to === to));
        if (at === -1) {
            const whose = to === undefined ? "" : ` of ${to}`;
            const shown = JSON.stringify(unanswered.map(({ sent }) => [sent.replyAs, sent.to]));
            throw new Error(`nothing was sent that waits for an answer ${JSON.stringify(name)}${whose}; what does, and for whose: ${shown}`);
        }
        const asked = unanswered[at];
        const attempt = asked.failures + 1;
        const take = () => unanswered.splice(unanswered.indexOf(asked), 1);
        try {
            const origin = { kind: "answer", name, sender: toAddress(asked.sent.to), refusal, attempt };
            const reply = this.#handle(origin, contentType, body.slice());
            take();
            return valueOf(reply);
        } catch (error) {
            asked.failures = attempt;
            // A node keeps it for an operator then.
            const isFinal = isRejection(error) && !error.retriable;
            if (isFinal || attempt >= limits.sendAttempts) take();
            throw error;
        }
    }

    respond(id, status = 200, { parts = [], ...answer } = {}) {
        const open = this.#openRequest(id);
        for (const part of parts) this.part(id, ...[part].flat());
        return this.#answerRequest(open, answerOf(open, status, answer));
    }
    fail(id, code, reason = `the test says: ${code}`, { parts = [], ...failure } = {}) {
        const open = this.#openRequest(id);
        for (const part of parts) this.part(id, ...[part].flat());
        return this.#answerRequest(open, failureOf(open, code, reason, failure));
    }
    part(id, ...pieces) {
        const open = this.#openRequest(id);
        const { kind, texts, shown } = partOf(open, pieces);
        open.shown.push(shown);
        return this.#show(texts.map((text) => [kind, Reply.text(text)]));
    }
    restart(id) {
        const open = this.#openRequest(id);
        open.attempts += 1;
        // Nobody is told that what was not shown is void.
        const isShown = open.shown.splice(0).length > 0;
        return this.#show(isShown ? [["slotd.restarted", Reply.json({ id, attempt: open.attempts })]] : []);
    }
    /** An entry of the history without a call of the handler. */
    #show(events) {
        const { session } = this;
        if (events.length === 0) return [];
        session.seq += 1;
        const shown = events.map(([kind, { contentType, body }]) => new Event(session.seq, kind, contentType, body));
        session.events.push(...shown);
        return shown;
    }
    #openRequest(id) {
        const { openRequests } = this.session;
        const open = openRequests.get(id);
        if (open !== undefined) return open;
        throw new Error(`no request ${JSON.stringify(id)} is open; there are ${JSON.stringify([...openRequests.keys()])}`);
    }
    #answerRequest(open, { origin, contentType, bytes }) {
        const { openRequests } = this.session;
        const { id } = origin;
        // It has ended when its answer is handled, which may ask again.
        openRequests.delete(id);
        try {
            return valueOf(this.#handle(origin, contentType, bytes));
        } catch (error) {
            open.failures = origin.attempt;
            // A node keeps it for an operator then.
            const isFinal = isRejection(error) && !error.retriable;
            if (!isFinal && open.failures < limits.answerAttempts) openRequests.set(id, open);
            throw error;
        }
    }
    presence(present) {
        if (!this.session.watchesSubscribers) {
            throw new Error("the session does not watch its subscribers: its handler has not called cx.watchSubscribers()");
        }
        return valueOf(this.#handle({ kind: "presence", present }, "application/octet-stream", new Uint8Array()));
    }

    advance(by) {
        const { session } = this;
        const end = session.timeMs + toMs(by, "the time to advance by");
        const all = [];
        for (;;) {
            for (const [name, timer] of session.timers) {
                if (timer.when.tag === "cron") {
                    const shown = JSON.stringify(name);
                    throw new Error(`the timer ${shown} is a cron expression's: the harness does not compute its times, so advance can't say when it fires. Use fire(${shown}) at its time (session.timeMs), and cancel it before advance`);
                }
            }
            const due = [...session.timers].filter(([, timer]) => timer.nextMs <= end);
            due.sort(([a, one], [b, other]) => one.nextMs - other.nextMs || byBytes(a, b));
            const [first] = due;
            const { name, expiresMs } = session;
            if (expiresMs <= end && (first === undefined || expiresMs < first[1].nextMs)) {
                Object.assign(session, newSession(), { name, timeMs: Math.max(session.timeMs, expiresMs) });
                continue;
            }
            if (first === undefined) break;
            all.push(this.fire(first[0]));
            if (all.length >= limits.fired) {
                throw new Error(`${all.length} timers fired, and the time is not over: the last was ${JSON.stringify(first[0])}`);
            }
        }
        session.timeMs = Math.max(session.timeMs, end);
        return all;
    }
    fire(name) {
        const { session } = this;
        const timer = session.timers.get(name);
        if (timer === undefined) {
            throw new Error(`no timer ${JSON.stringify(name)} is set; there are ${JSON.stringify([...session.timers.keys()])}`);
        }
        if (timer.when.tag !== "cron" || timer.failures > 0) session.timeMs = Math.max(session.timeMs, timer.nextMs);
        const { timeMs } = session;
        const [events, notified] = [session.events.length, session.notified.length];
        const { dueMs, missed, left } = nextOf(timer, timeMs);
        const attempt = timer.failures + 1;
        put(session, name, left);
        let outcome;
        try {
            const body = timer.body.slice();
            outcome = { reply: this.#handle({ kind: "timer", name, dueMs, missed, attempt }, timer.contentType, body) };
        } catch (error) {
            outcome = { error };
            const isFinal = isRejection(error) && !error.retriable;
            const isLast = isFinal || attempt >= limits.timerAttempts;
            if (isLast) {
                const { contentType, body } = timer;
                session.dead.push({ name, dueMs, attempts: attempt, contentType, body, error });
                put(session, name, left);
            } else {
                const nextMs = timeMs + Math.min(limits.timerRetryMs, 1000 * 2 ** timer.failures);
                put(session, name, { ...timer, dueMs, nextMs, failures: attempt });
            }
        }
        return new Fired({
            name,
            dueMs,
            missed,
            attempt,
            timeMs,
            ...outcome,
            events: session.events.slice(events),
            notified: session.notified.slice(notified),
        });
    }
    get timers() {
        return [...this.session.timers].sort(([a], [b]) => byBytes(a, b)).map(shownTimer);
    }
    get expires() {
        return this.session.expiresMs;
    }
    get dead() {
        return this.session.dead;
    }
    get sent() {
        return this.session.sent;
    }
    get unanswered() {
        return this.session.unanswered.map(({ sent }) => sent);
    }
    get requests() {
        return this.session.requests;
    }
    get openRequests() {
        return [...this.session.openRequests.values()].map(({ request }) => request).sort((a, b) => byBytes(a.id, b.id));
    }
    get closed() {
        return this.session.closed;
    }
    get watchesSubscribers() {
        return this.session.watchesSubscribers;
    }

    query(query) {
        return valueOf(this.queryBytes("application/json", toJson(query)));
    }
    queryBytes(contentType, body) {
        const { name, seq, timeMs } = this.session;
        return this.#call("query", seq, (host) => {
            const cx = new QueryContext(host, { session: name, seq, contentType, timeMs });
            return checked(callQuery(this.#handler, cx, toBody(body)));
        }, { client: this.client });
    }

    migrate(from) {
        this.#call("migrate", this.session.seq, (host) => {
            const { refused } = callMigrate(this.#handler, new MigrateContext(host), from);
            if (refused !== undefined) throw new Refused(refused);
        });
    }
    swap(next, from) {
        const harness = new Harness(next, this.session);
        harness.client = this.client;
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

    #call(mode, seq, call, from = {}) {
        const { session } = this;
        const tx = new Transaction(mode, seq, session, from);
        try {
            const answer = surrounded(tx, session.timeMs, () => call(tx));
            // A trap can't be caught by the guest, whatever it tries.
            if (tx.trapped !== undefined) throw tx.trapped;
            session.events.push(...tx.events);
            session.notified.push(...tx.notified);
            session.sent.push(...tx.sent);
            const asked = tx.sent.filter(({ replyAs }) => replyAs !== undefined);
            session.unanswered.push(...asked.map((sent) => ({ sent, failures: 0 })));
            session.requests.push(...tx.requests);
            if (session.closed) endAll(session);
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

/** What another session sends or replies: JSON, or a `Reply` as it is. */
function toReply(value) {
    return value instanceof Reply ? value : Reply.json(value);
}

/** What ends with a session that is closed. */
function endAll(session) {
    session.timers.clear();
    session.unanswered.length = 0;
    session.openRequests.clear();
    session.watchesSubscribers = false;
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
    sent = [];
    requests = [];
    lines = [];
    trapped;
    #mode;
    #seq;
    #session;
    #isFiring;
    #client;
    #undo = [];
    #timersUndo = [];
    #before;
    #calls = 0;
    #written = 0;
    #eventBytes = 0;
    #notifiedBytes = 0;
    #sorted;
    #random = { counter: 0n, bytes: [] };

    /** `isFiring`: of a timer's message. `client`: who has sent it, or asks. */
    constructor(mode, seq, session, { isFiring = false, client }) {
        this.#mode = mode;
        this.#seq = seq;
        this.#session = session;
        this.#isFiring = isFiring;
        this.#client = client;
        const { expiresMs, closed, watchesSubscribers, openRequests } = session;
        this.#before = { expiresMs, closed, watchesSubscribers, openRequests: new Map(openRequests) };
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
    expire(at) {
        this.#count();
        if (this.#mode !== "handle") this.#trap("only `handle` may have the session expire");
        if (at > limits.timerMs) {
            return `${at} is no time at which a session can expire: the last is ${limits.timerMs} ms since the Unix epoch`;
        }
        this.#session.expiresMs = at === undefined ? undefined : Math.max(at, this.#session.timeMs);
        return undefined;
    }
    schedule(name, when, contentType, body) {
        this.#changeTimer("set", name);
        this.#checkContentType(contentType, "a timer");
        if (body.length > limits.timerBodyBytes) {
            this.#trap(`limit: timers: a body may have ${limits.timerBodyBytes} bytes; this one has ${body.length}`);
        }
        const { timers, timeMs } = this.#session;
        const first = when.tag === "cron" ? timeMs : when.tag === "at" ? when.val : timeMs + when.val;
        const wrong = momentProblem(when, first);
        if (wrong !== undefined) return { wrong };
        // A timer that sets itself again is a period, however it does it.
        const dueMs = Math.max(first, timeMs + (this.#isFiring ? limits.timerPeriodMs : 0));
        this.#timersUndo.push([name, timers.get(name)]);
        timers.set(name, { when, dueMs, nextMs: dueMs, failures: 0, contentType, body: body.slice() });
        let bytes = 0;
        for (const [name, timer] of timers) bytes += byteLength(name) + timer.contentType.length + timer.body.length;
        if (timers.size > limits.timers || bytes > limits.timerBytes) {
            this.#trap(`limit: more than ${limits.timers} timers or ${limits.timerBytes} bytes of them`);
        }
        return { due: dueMs };
    }
    cancel(name) {
        this.#changeTimer("cancel", name);
        const { timers } = this.#session;
        this.#timersUndo.push([name, timers.get(name)]);
        return timers.delete(name);
    }
    timer(name) {
        this.#count();
        const timer = this.#session.timers.get(name);
        return timer === undefined ? null : shownTimer([name, timer]);
    }
    timers(after, limit) {
        this.#count();
        const all = [...this.#session.timers].filter(([name]) => after === undefined || byBytes(name, after) > 0);
        return all.sort(([a], [b]) => byBytes(a, b)).slice(0, limit).map(shownTimer);
    }
    #changeTimer(what, name) {
        this.#count();
        if (this.#mode !== "handle") this.#trap(`only \`handle\` may ${what} timers`);
        const bytes = byteLength(name);
        if (bytes < 1 || bytes > limits.timerNameBytes) {
            this.#trap(`the name of a timer must have 1 to ${limits.timerNameBytes} bytes; this one has ${bytes}`);
        }
        if (/\p{Cc}/u.test(name)) this.#trap(`the name of a timer has no control characters, and ${JSON.stringify(name)} has`);
        if (this.#timersUndo.length === limits.timerChanges) {
            this.#trap(`limit: more than ${limits.timerChanges} timers set or cancelled`);
        }
    }
    send({ service, session }, contentType, body, replyAs) {
        this.#count();
        if (this.#mode !== "handle") this.#trap("only `handle` may send messages to other sessions");
        this.#checkContentType(contentType, "a message");
        if (body.length > limits.sendBodyBytes) {
            this.#trap(`limit: sends: a body may have ${limits.sendBodyBytes} bytes; this one has ${body.length}`);
        }
        const wrong = addressProblem(service, session) ?? (replyAs === undefined ? undefined : replyNameProblem(replyAs));
        if (wrong !== undefined) return wrong;
        if (this.sent.length === limits.sends) this.#trap(`limit: sends: a message may send at most ${limits.sends}`);
        const to = shownAddress({ service, session });
        this.sent.push(new Sent({ seq: this.#seq, to, contentType, body: body.slice(), replyAs }));
        return undefined;
    }
    request(id, request) {
        this.#countRequest("make");
        const fault = requestFault(request);
        if (fault !== undefined) this.#trap(fault);
        const problem = requestProblem(id, request.options);
        if (problem !== undefined) return problem;
        if (this.requests.length === limits.requests) this.#trap(`limit: requests: a message may make at most ${limits.requests}`);
        const requested = new Requested(this.#seq, id, request);
        this.requests.push(requested);
        this.#session.openRequests.set(id, opened(requested));
        return undefined;
    }
    cancelRequest(id) {
        this.#countRequest("cancel");
        return this.#session.openRequests.delete(id);
    }
    openRequests() {
        this.#count();
        return [...this.#session.openRequests.keys()].sort(byBytes);
    }
    #countRequest(what) {
        this.#count();
        if (this.#mode !== "handle") this.#trap(`only \`handle\` may ${what} requests`);
    }
    close() {
        this.#count();
        if (this.#mode !== "handle") this.#trap("only `handle` may close the session");
        this.#session.closed = true;
    }
    watchSubscribers(wanted) {
        this.#count();
        if (this.#mode !== "handle") this.#trap("only `handle` may watch the session's subscribers");
        this.#session.watchesSubscribers = wanted;
    }
    client() {
        this.#count();
        if (this.#client == null) return null;
        const { kind, subject, claims = {} } = this.#client;
        // A node has them in order.
        return { kind, subject: subject ?? null, claims: Object.entries(claims).sort(([a], [b]) => byBytes(a, b)) };
    }
    /** It becomes a header. */
    #checkContentType(contentType, of) {
        if (contentType.length > limits.contentTypeBytes) {
            this.#trap(`limit: the content type of ${of} may have ${limits.contentTypeBytes} bytes; this one has ${contentType.length}`);
        }
        if (!/^[ -~]*$/.test(contentType)) {
            this.#trap(`the content type of ${of} is printable ASCII, not ${JSON.stringify(contentType)}`);
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
        for (const [name, before] of this.#timersUndo.reverse()) put(this.#session, name, before);
        this.#timersUndo = [];
        const { openRequests, ...before } = this.#before;
        Object.assign(this.#session, before);
        this.#session.openRequests.clear();
        for (const [id, open] of openRequests) this.#session.openRequests.set(id, open);
        this.events = [];
        this.notified = [];
        this.sent = [];
        this.requests = [];
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

function shownAddress({ service, session }) {
    return `${service}/${session}`;
}

/** Of whom the test says that it has sent something. */
function addressOf(from) {
    const address = toAddress(from);
    const wrong = addressProblem(address.service, address.session);
    if (wrong !== undefined) throw new Error(wrong);
    return address;
}

function addressProblem(service, session) {
    const [serviceBytes, sessionBytes] = [byteLength(service), byteLength(session)];
    if (serviceBytes < 1 || serviceBytes > limits.serviceNameBytes) {
        return `a service name must have 1 to ${limits.serviceNameBytes} bytes; this one has ${serviceBytes}`;
    }
    if (!/^[a-z0-9][a-z0-9_.-]*$/.test(service)) {
        return `service name ${JSON.stringify(service)}: use a-z, 0-9, '-', '_' and '.', starting with a letter or digit`;
    }
    if (sessionBytes < 1 || sessionBytes > limits.sessionIdBytes) {
        return `a session id must have 1 to ${limits.sessionIdBytes} bytes; this one has ${sessionBytes}`;
    }
    return /\p{Cc}/u.test(session) ? `session id ${JSON.stringify(session)} has a control character` : undefined;
}

function replyNameProblem(name) {
    const bytes = byteLength(name);
    if (bytes < 1 || bytes > limits.sendNameBytes) {
        return `the name of a reply must have 1 to ${limits.sendNameBytes} bytes; this one has ${bytes}`;
    }
    return /\p{Cc}/u.test(name) ? `the name of a reply has no control characters, and ${JSON.stringify(name)} has` : undefined;
}

function momentProblem(when, first) {
    if (when.tag === "cron") return cronProblem(when.val);
    if (when.tag === "every" && when.val < limits.timerPeriodMs) {
        return `a period has ${limits.timerPeriodMs} ms at least, not ${when.val}`;
    }
    if (first <= limits.timerMs) return undefined;
    return `${first} is no time that a timer can be set for: the last is ${limits.timerMs} ms since the Unix epoch`;
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
