import { toClient } from "./client.js";
import { Rejection } from "./error.js";
import { expire } from "./expire.js";
import { Http, HttpView } from "./http.js";
import { parseBytes, stringifyBytes } from "./json.js";
import { toBytes } from "./reply.js";
import { send } from "./sends.js";
import { State, StateView } from "./state.js";
import { Timers, TimersView } from "./timers.js";

const LEVELS = ["trace", "debug", "info", "warn", "error"];

class Base {
    #host;
    constructor(host) {
        this.#host = host;
    }
    log(level, text) {
        if (!LEVELS.includes(level)) throw new TypeError(`${JSON.stringify(level)} is no level: ${LEVELS.join(", ")}`);
        this.#host.log(level, String(text).toWellFormed());
    }
}

/** The message being handled, and what its handler can do. */
export class Context extends Base {
    #host;
    constructor(host, { session, seq, id, origin, contentType, timeMs }) {
        super(host);
        this.#host = host;
        this.session = session;
        this.seq = seq;
        this.id = id;
        this.origin = origin;
        this.contentType = contentType;
        this.timeMs = timeMs;
        this.state = new State(host);
        this.timers = new Timers(host);
        this.http = new Http(host);
    }
    get sender() {
        return this.origin.kind === "client" ? this.origin.sender : undefined;
    }
    get client() {
        return toClient(this.#host.client());
    }
    emit(kind, value) {
        this.emitBytes(kind, "application/json", eventBody(value));
    }
    emitBytes(kind, contentType, body) {
        this.#host.emit(text(kind, "an event's kind"), text(contentType, "a content type"), toBytes(body, "an event's body"));
    }
    notify(kind, value) {
        this.notifyBytes(kind, "application/json", eventBody(value));
    }
    notifyBytes(kind, contentType, body) {
        this.#host.notify(text(kind, "an event's kind"), text(contentType, "a content type"), toBytes(body, "an event's body"));
    }
    expire(when) {
        expire(this.#host, this.timeMs, when);
    }
    keep() {
        this.#host.expire(undefined);
    }
    close() {
        this.#host.close();
    }
    watchSubscribers(wanted = true) {
        this.#host.watchSubscribers(Boolean(wanted));
    }
    send(to, body, options) {
        send(this.#host, to, body, options);
    }
    parse(body) {
        return parseBody("message", body);
    }
}

/** The query being answered. */
export class QueryContext extends Base {
    #host;
    constructor(host, { session, seq, contentType, timeMs }) {
        super(host);
        this.#host = host;
        this.session = session;
        this.seq = seq;
        this.contentType = contentType;
        this.timeMs = timeMs;
        this.state = new StateView(host);
        this.timers = new TimersView(host);
        this.http = new HttpView(host);
    }
    get client() {
        return toClient(this.#host.client());
    }
    parse(body) {
        return parseBody("query", body);
    }
    /** What a query must not do, for tests of the host's own guard: see `raw.js`. */
    static forbidden(cx) {
        return new Context(cx.#host, { ...cx, id: undefined, origin: { kind: "client", sender: undefined } });
    }
}

/** A session's migration from another version: its state and nothing else. */
export class MigrateContext extends Base {
    constructor(host) {
        super(host);
        this.state = new State(host);
    }
}

function parseBody(what, body) {
    try {
        return parseBytes(body);
    } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        throw new Rejection(`bad-${what}`, `the ${what} is not understood: ${error.message}`);
    }
}

function eventBody(value) {
    const body = stringifyBytes(value === undefined ? null : value);
    if (body === undefined) throw new TypeError(`an event of ${typeof value} has no form in JSON`);
    return body;
}

function text(value, what) {
    if (typeof value !== "string") throw new TypeError(`${what} is a string, not ${value === null ? "null" : typeof value}`);
    return value.toWellFormed();
}
