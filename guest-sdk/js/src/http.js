import { Rejection } from "./error.js";
import { parseBytes, stringifyBytes } from "./json.js";
import { Reply, toBytes } from "./reply.js";
import { toMs } from "./timers.js";
import { decodeLossy, encode } from "./utf8.js";

/** The session's requests, to read. */
export class HttpView {
    #host;
    constructor(host) {
        this.#host = host;
    }
    open() {
        return this.#host.openRequests();
    }
}

/** The session's requests over HTTP. */
export class Http extends HttpView {
    #host;
    constructor(host) {
        super(host);
        this.#host = host;
    }
    request(id, url, init) {
        const wrong = this.#host.request(checkText(id, "a request's id"), toRequest(url, init ?? {}));
        if (wrong !== undefined) throw new Rejection("bad-request", wrong);
    }
    get(id, url, options) {
        this.request(id, url, { ...options, method: "GET" });
    }
    post(id, url, options) {
        this.request(id, url, { ...options, method: "POST" });
    }
    put(id, url, options) {
        this.request(id, url, { ...options, method: "PUT" });
    }
    patch(id, url, options) {
        this.request(id, url, { ...options, method: "PATCH" });
    }
    delete(id, url, options) {
        this.request(id, url, { ...options, method: "DELETE" });
    }
    cancel(id) {
        return this.#host.cancelRequest(checkText(id, "a request's id"));
    }
}

/** What stands in a URL or the value of a header for the operator's secret of that name. */
export function secret(name) {
    if (typeof name !== "string" || !/^[A-Za-z0-9_]{1,64}$/.test(name)) {
        throw new TypeError(`the name of a secret has letters, digits and _, 64 at most, and ${JSON.stringify(name)} is none`);
    }
    return `{{secret:${name}}}`;
}

/** The body of an answer. */
export class HttpBody {
    constructor(contentType, bytes) {
        this.contentType = contentType;
        this.bytes = bytes;
    }
    json() {
        try {
            return parseBytes(this.bytes);
        } catch (error) {
            if (!(error instanceof SyntaxError)) throw error;
            throw new Rejection("bad-message", `the answer is not JSON: ${error.message}`);
        }
    }
    text() {
        return decodeLossy(this.bytes);
    }
}

/** The origin of an answer's message, from what the host says of it. */
export function toOrigin({ id, outcome: { tag, val }, attempts, attempt }) {
    const of = { kind: "http", id, attempts, attempt };
    if (tag === "response") return { ...of, response: toResponse(val), failure: undefined };
    const { code, reason, response } = val;
    const failure = { code, reason, response: response == null ? undefined : toResponse(response) };
    return { ...of, response: undefined, failure };
}

function toResponse({ status, headers: rawHeaders }) {
    // A header may be called `__proto__`.
    const headers = Object.create(null);
    for (const [name, value] of rawHeaders) {
        headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
    }
    return { status, ok: status >= 200 && status < 300, headers: { ...headers }, rawHeaders };
}

function toRequest(url, init) {
    const {
        method = "GET", headers, json, body, timeout, deadline, attempts, redirects, answerBytes, keepHeaders, stream,
        ...unknown
    } = init;
    // One that is misspelt would have no effect, and nobody would know.
    const [first] = Object.keys(unknown);
    if (first !== undefined) throw new TypeError(`a request has no option ${JSON.stringify(first)}`);
    const list = toHeaders(headers);
    const { contentType, bytes } = toContent(json, body);
    const isSaid = list.some(([name]) => name.toLowerCase() === "content-type");
    if (contentType !== undefined && !isSaid) list.push(["content-type", contentType]);
    return {
        method: checkText(method, "a method"),
        url: checkText(url, "a URL"),
        headers: list,
        body: bytes,
        options: {
            timeoutMs: toDuration(timeout, "a request's timeout"),
            deadlineMs: toDuration(deadline, "a request's deadline"),
            attempts: toCount(attempts, "attempts", U32),
            redirects: toCount(redirects, "redirects", 255),
            answerBytes: toCount(answerBytes, "answerBytes", U32),
            keepHeaders: Array.from(keepHeaders ?? [], (name) => checkText(name, "a header's name")),
            stream: toStream(stream),
        },
    };
}

/** As `fetch` does: text says that it is text, bytes say nothing. */
function toContent(json, body) {
    if (json !== undefined && body !== undefined) throw new TypeError("a request has `json` or `body`, not both");
    if (json !== undefined) {
        const bytes = stringifyBytes(json);
        if (bytes === undefined) throw new TypeError(`a request's body of ${typeof json} has no form in JSON`);
        return { contentType: "application/json", bytes };
    }
    if (body == null) return { bytes: new Uint8Array() };
    if (typeof body === "string") return { contentType: "text/plain;charset=UTF-8", bytes: encode(body) };
    if (body instanceof Reply) return { contentType: body.contentType.toWellFormed(), bytes: body.body };
    return { bytes: toBytes(body, "a request's body") };
}

function toHeaders(headers) {
    if (headers == null) return [];
    const pairs = typeof headers[Symbol.iterator] === "function" ? [...headers] : Object.entries(headers);
    return pairs.flatMap(([name, value]) => {
        const values = Array.isArray(value) ? value : [value];
        const what = `the value of the header ${name}`;
        return values.map((one) => [checkText(name, "a header's name"), checkText(typeof one === "number" ? String(one) : one, what)]);
    });
}

function toStream(stream) {
    if (stream == null) return undefined;
    const { kind, form = "text" } = stream;
    checkText(kind, "the kind of a stream's events");
    if (form === "text" || form === "data") return { kind, form: { tag: form } };
    if (typeof form?.joined !== "string") {
        throw new TypeError('the form of a stream is "text", "data", or { joined: "choices.0.delta.content" }');
    }
    return { kind, form: { tag: "joined", val: checkText(form.joined, "a path") } };
}

const U32 = 0xffff_ffff;

/** What is more than the interface can say is as much too much. */
function toDuration(duration, what) {
    return duration == null ? undefined : Math.min(toMs(duration, what), U32);
}

function toCount(count, name, max) {
    if (count == null) return undefined;
    if (!Number.isSafeInteger(count) || count < 0) throw new TypeError(`\`${name}\` of a request is a whole number, not ${String(count)}`);
    return Math.min(count, max);
}

function checkText(value, what) {
    if (typeof value !== "string") throw new TypeError(`${what} is a string, not ${value === null ? "null" : typeof value}`);
    if (!value.isWellFormed()) throw new TypeError(`${what} with half a surrogate pair is no text`);
    return value;
}
