// The component's side: what the host calls, and what QuickJS lacks.

import client from "slotd:slot/client@1.1.0";
import effects from "slotd:slot/effects@1.1.0";
import http from "slotd:slot/http@1.1.0";
import log from "slotd:slot/log@1.1.0";
import sends from "slotd:slot/sends@1.1.0";
import session from "slotd:slot/session@1.1.0";
import state from "slotd:slot/state@1.1.0";
import timers from "slotd:slot/timers@1.1.0";
import exit from "wasi:cli/exit@0.2.12";
import random from "wasi:random/random@0.2.12";
import { Context, MigrateContext, QueryContext } from "./context.js";
import { Chance, define, globals } from "./globals.js";
import { callHandle, callMigrate, callQuery, unfit } from "./handler.js";
import { toOrigin } from "./http.js";
import { describe, setMap } from "./trace.js";

/** The `err` of a function of the interface, where that is a sentence. */
function sentence(thrown) {
    if (typeof thrown?.payload !== "string") throw thrown;
    return thrown.payload;
}

/** What is not given is null to the interface. */
function optionsOf({ timeoutMs, deadlineMs, attempts, redirects, answerBytes, keepHeaders, stream }) {
    return {
        timeoutMs: timeoutMs ?? null,
        deadlineMs: deadlineMs ?? null,
        attempts: attempts ?? null,
        redirects: redirects ?? null,
        answerBytes: answerBytes ?? null,
        keepHeaders,
        stream: stream ?? null,
    };
}

const host = {
    get: state.get,
    set: state.set,
    delete: state.delete,
    scan: (prefix, after, limit) => state.scan(prefix, after ?? null, limit),
    emit: (kind, contentType, body) => effects.emit({ kind, contentType, body }),
    notify: (kind, contentType, body) => session.notify({ kind, contentType, body }),
    expire: (at) => {
        try {
            session.expire(at ?? null);
            return undefined;
        } catch (thrown) {
            return sentence(thrown);
        }
    },
    close: session.close,
    watchSubscribers: session.watchSubscribers,
    schedule: (name, when, contentType, body) => {
        try {
            return { due: timers.schedule(name, when, contentType, body) };
        } catch (thrown) {
            return { wrong: sentence(thrown) };
        }
    },
    cancel: timers.cancel,
    timer: timers.get,
    timers: (after, limit) => timers.list(after ?? null, limit),
    send: (to, contentType, body, replyAs) => {
        try {
            sends.send(to, contentType, body, replyAs ?? null);
            return undefined;
        } catch (thrown) {
            return sentence(thrown);
        }
    },
    request: (id, { options, ...request }) => {
        try {
            http.request(id, { ...request, options: optionsOf(options) });
            return undefined;
        } catch (thrown) {
            return sentence(thrown);
        }
    },
    cancelRequest: http.cancel,
    openRequests: http.open,
    client: client.current,
    log: log.write,
};

// While the handler's modules are loaded, at build time, there is no host to ask: chance is then
// always the same, and what is printed goes nowhere.
let inCall = false;
const chance = new Chance({
    random: (bytes) => (inCall ? random.getRandomBytes(bytes) : new Uint8Array(bytes)),
});
const surroundings = globals(chance, (level, text) => {
    if (inCall) log.write(level, text);
});
define(globalThis, { ...surroundings.values, __slotdSetMap: setMap });
define(Math, { random: surroundings.random });

/**
 * Runs a call. What a handler throws that is no rejection must end in a trap; a component can't be
 * made to trap from JavaScript but by `exit`.
 */
function guarded(call) {
    inCall = true;
    chance.begin();
    let outcome;
    try {
        outcome = call();
    } catch (thrown) {
        try {
            log.write("error", describe(thrown));
        } finally {
            exit.exit({ tag: "err" });
        }
    }
    return outcome;
}

function answer({ reply, rejected }) {
    if (rejected === undefined) return { contentType: reply.contentType.toWellFormed(), body: reply.body };
    // An object that is no Error is the function's `err`.
    throw {
        code: rejected.code.toWellFormed(),
        message: rejected.message.toWellFormed(),
        retriable: rejected.retriable,
    };
}

function fromSession({ tag, val }) {
    const { service, session } = val.sender;
    const sender = { service, session };
    if (tag === "message") return { kind: "session", sender, attempt: val.attempt, replyWanted: val.replyWanted };
    const { name, attempt } = val;
    if (val.refusal == null) return { kind: "answer", name, sender, refusal: undefined, attempt };
    const { code, message, retriable } = val.refusal;
    return { kind: "answer", name, sender, refusal: { code, message, retriable }, attempt };
}

const ORIGINS = {
    client: (sender) => ({ kind: "client", sender: sender ?? undefined }),
    session: () => {
        const arrival = sends.current();
        // What is no other session's says whether this one has subscribers.
        return arrival == null ? { kind: "presence", present: session.current() === "present" } : fromSession(arrival);
    },
    // Each message of a timer has a `current`.
    timer: (name) => {
        const { dueMs, missed, attempt } = timers.current();
        return { kind: "timer", name, dueMs, missed, attempt };
    },
    // Each answer has a `current`.
    http: () => toOrigin(http.current()),
};

/** What a component exports, from a module's default export. */
export function component(handler) {
    const why = unfit(handler);
    if (why !== undefined) throw new TypeError(why);
    return {
        handle: (message) => answer(guarded(() => {
            const origin = ORIGINS[message.origin.tag](message.origin.val);
            const cx = new Context(host, {
                session: message.session,
                seq: message.seq,
                id: message.id ?? undefined,
                origin,
                contentType: message.contentType,
                timeMs: message.timeMs,
            });
            return callHandle(handler, cx, message.body);
        })),
        query: (query) => answer(guarded(() => callQuery(handler, new QueryContext(host, query), query.body))),
        migrate: (from) => {
            const { refused } = guarded(() => callMigrate(handler, new MigrateContext(host), from));
            // A string is the function's `err`.
            if (refused !== undefined) throw refused.toWellFormed();
            // The host takes a `migrate` that never looks at the state for none.
            if (handler.migrate !== undefined) state.scan("", null, 0);
        },
    };
}
