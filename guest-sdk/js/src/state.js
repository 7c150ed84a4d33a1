import { Rejection } from "./error.js";
import { parseBytes, stringifyBytes } from "./json.js";
import { toBytes } from "./reply.js";

// Most scans are short, or taken from the front: begin small, grow to the host's limit.
const PAGE_FIRST = 64;
const PAGE_MAX = 1000;

/** The session's state, to read: a sorted map from text keys to bytes, as JSON values. */
export class StateView {
    #host;
    constructor(host) {
        this.#host = host;
    }
    get(key) {
        const bytes = this.#host.get(checkKey(key));
        return bytes == null ? undefined : decode(key, bytes);
    }
    getBytes(key) {
        return this.#host.get(checkKey(key)) ?? undefined;
    }
    has(key) {
        return this.#host.get(checkKey(key)) != null;
    }
    *scan(prefix = "", options = {}) {
        for (const [key, bytes] of this.scanBytes(prefix, options)) yield [key, decode(key, bytes)];
    }
    *scanBytes(prefix = "", { after } = {}) {
        checkKey(prefix);
        let limit = PAGE_FIRST;
        for (let from = after; ; ) {
            const page = this.page(prefix, from, limit);
            // A page may end early; only an empty one says that there is no more.
            if (page.length === 0) return;
            yield* page;
            from = page[page.length - 1][0];
            limit = Math.min(limit * 4, PAGE_MAX);
        }
    }
    /** One page of a scan as the host gives it. */
    page(prefix, after, limit) {
        return this.#host.scan(checkKey(prefix), after == null ? undefined : checkKey(after), limit);
    }
}

/** The session's state, to read and to write. */
export class State extends StateView {
    #host;
    constructor(host) {
        super(host);
        this.#host = host;
    }
    set(key, value) {
        const bytes = stringifyBytes(value, true);
        if (bytes === undefined) {
            throw new TypeError(`the value for ${JSON.stringify(key)} is ${typeof value}, which has no form in JSON`);
        }
        this.#host.set(checkKey(key), bytes);
    }
    setBytes(key, value) {
        this.#host.set(checkKey(key), toBytes(value, "a value"));
    }
    delete(key) {
        this.#host.delete(checkKey(key));
    }
}

function checkKey(key) {
    if (typeof key !== "string") throw new TypeError(`a key is a string, not ${key === null ? "null" : typeof key}`);
    if (!key.isWellFormed()) throw new TypeError("a key with half a surrogate pair is no text");
    return key;
}

function decode(key, bytes) {
    try {
        return parseBytes(bytes);
    } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        throw new Rejection("bad-state", `the value of ${JSON.stringify(key)} is not JSON: ${error.message}`);
    }
}
