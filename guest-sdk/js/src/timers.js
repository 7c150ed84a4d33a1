import { Rejection } from "./error.js";
import { parseBytes } from "./json.js";
import { Reply } from "./reply.js";
import { decodeLossy } from "./utf8.js";

/** How many the host gives at a time. */
const PAGE = 1000;

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** Past it a number of milliseconds is not exact; no timer can be set for that anyway. */
export const MS_MAX = Number.MAX_SAFE_INTEGER;

/**
 * Milliseconds of `"10m"`, `"1.5h"` or a number; not a part of one less, since a timer is never early.
 * @param {string | number} duration
 */
export function toMs(duration, what = "a delay") {
    let ms = duration;
    if (typeof duration === "string") {
        const [, count, unit] = /^(\d+(?:\.\d+)?)(ms|s|m|h|d)$/.exec(duration) ?? [];
        // Two numbers with a few digits: their product may be off by the last bit.
        ms = unit === undefined ? NaN : Number((Number(count) * UNITS[unit]).toPrecision(15));
    }
    if (typeof ms !== "number" || !(ms >= 0)) {
        const shown = typeof duration === "string" ? JSON.stringify(duration) : String(duration);
        throw new TypeError(`${what} is a number of milliseconds or text like "10m", not ${shown}: the units are ms, s, m, h and d`);
    }
    return Math.min(Math.ceil(ms), MS_MAX);
}

export function toTime(time, what = "a timer's time") {
    const ms = time instanceof Date ? time.getTime() : time;
    if (typeof ms !== "number" || Number.isNaN(ms)) {
        throw new TypeError(`${what} is a Date or milliseconds since the Unix epoch, not ${String(time)}`);
    }
    return Math.min(Math.max(Math.ceil(ms), 0), MS_MAX);
}

/** A timer that is set. */
export class Timer {
    constructor({ name, dueMs, contentType, body, failures }) {
        this.name = name;
        this.dueMs = dueMs;
        this.contentType = contentType;
        this.body = body;
        this.failures = failures;
    }
    /** The body from JSON. */
    json() {
        return parseBytes(this.body);
    }
    /** The body as text. */
    text() {
        return decodeLossy(this.body);
    }
}

/** The session's timers, to read. */
export class TimersView {
    #host;
    constructor(host) {
        this.#host = host;
    }
    get(name) {
        const timer = this.#host.timer(checkName(name));
        return timer == null ? undefined : new Timer(timer);
    }
    list() {
        const all = [];
        for (;;) {
            const page = this.#host.timers(all.at(-1)?.name, PAGE);
            for (const timer of page) all.push(new Timer(timer));
            if (page.length < PAGE) return all;
        }
    }
}

/** The session's timers: messages that it sends itself later. */
export class Timers extends TimersView {
    #host;
    constructor(host) {
        super(host);
        this.#host = host;
    }
    after(name, delay, body) {
        return this.#set(name, { tag: "after", val: toMs(delay) }, body);
    }
    at(name, time, body) {
        return this.#set(name, { tag: "at", val: toTime(time) }, body);
    }
    every(name, period, body) {
        return this.#set(name, { tag: "every", val: toMs(period, "a period") }, body);
    }
    cron(name, expression, zone, body) {
        for (const [value, what] of [[expression, "a cron expression"], [zone, "a time zone"]]) {
            if (typeof value !== "string") throw new TypeError(`${what} is a string, not ${kindOf(value)}`);
        }
        const val = { expression: expression.toWellFormed(), zone: zone.toWellFormed() };
        return this.#set(name, { tag: "cron", val }, body);
    }
    cancel(name) {
        return this.#host.cancel(checkName(name));
    }
    #set(name, when, value) {
        const { contentType, body } = value instanceof Reply ? value : Reply.json(value);
        const { due, wrong } = this.#host.schedule(checkName(name), when, contentType.toWellFormed(), body);
        if (wrong !== undefined) throw new Rejection("bad-moment", wrong);
        return due;
    }
}

function checkName(name) {
    if (typeof name !== "string") throw new TypeError(`a timer's name is a string, not ${kindOf(name)}`);
    if (!name.isWellFormed()) throw new TypeError("a timer's name with half a surrogate pair is no text");
    return name;
}

function kindOf(value) {
    return value === null ? "null" : typeof value;
}
