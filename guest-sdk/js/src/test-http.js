// The harness's part of requests over HTTP: what a node refuses, and what a test says of answers.

import { Buffer } from "node:buffer";
import { toOrigin } from "./http.js";
import { parseBytes, stringify } from "./json.js";
import { Reply } from "./reply.js";

// Handlers find no `URL`, and neither would this while one is called.
const { URL } = globalThis;

export const httpLimits = {
    // Requests that one message makes.
    requests: 16,
    requestIdBytes: 128,
    requestBodyBytes: 256 * 1024,
    // Method, URL and headers.
    requestHeadBytes: 32 * 1024,
    requestMethodBytes: 32,
    requestUrlBytes: 8 * 1024,
    requestHeaders: 64,
    requestHeaderBytes: 16 * 1024,
    requestTimeoutMs: 600_000,
    requestDeadlineMs: 86_400_000,
    requestAttempts: 20,
    requestRedirects: 10,
    requestKeepHeaders: 16,
    requestKeepHeaderBytes: 64,
    streamKindBytes: 64,
    streamPathBytes: 256,
    answerBytes: 1024 * 1024,
    // How often the message that an answer becomes is tried.
    answerAttempts: 20,
};

/** Headers of an answer that are always kept. */
const KEPT = [
    "content-language", "content-type", "date", "etag", "last-modified", "link", "location", "request-id", "retry-after",
];

/** Headers that a node writes itself, or that concern one connection. */
const NOT_THE_CALLERS = [
    "accept-encoding", "connection", "content-length", "expect", "host", "idempotency-key", "keep-alive",
    "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
];

const TEXT = "text/plain; charset=utf-8";
const SECRET = /\{\{secret:(.*?)\}\}/g;
const WORD = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;

/** A request that a message made. */
export class Requested {
    constructor(seq, id, { method, url, headers, body, options }) {
        Object.assign(this, { seq, id, method, url, headers: headers.map((pair) => [...pair]), body: body.slice(), options });
    }
    /** The value of a header, whatever the case of its name. */
    header(name) {
        return this.headers.find(([other]) => other.toLowerCase() === name.toLowerCase())?.[1];
    }
    json() {
        return parseBytes(this.body);
    }
    text() {
        return new Reply(TEXT, this.body).text();
    }
}

/** An open request: how often it was made, what of its answer was shown, and how often its handler failed that. */
export function opened(request) {
    return { request, attempts: 1, shown: [], failures: 0 };
}

/** Why the call ends, if a request can't be one at all. */
export function requestFault({ method, url, headers, body, options: { keepHeaders, stream } }) {
    const max = httpLimits;
    if (body.length > max.requestBodyBytes) {
        return `limit: requests: a body may have ${max.requestBodyBytes} bytes; this one has ${body.length}`;
    }
    const head = [method, url, ...headers.flat()].reduce((sum, text) => sum + byteLength(text), 0);
    if (head > max.requestHeadBytes) {
        return `limit: requests: the method, URL and headers of one may have ${max.requestHeadBytes} bytes; these have ${head}`;
    }
    if (keepHeaders.length > max.requestKeepHeaders || keepHeaders.some((name) => byteLength(name) > max.requestKeepHeaderBytes)) {
        return `limit: requests: an answer may be asked to keep ${max.requestKeepHeaders} headers more, with ${max.requestKeepHeaderBytes} bytes in a name`;
    }
    return kindFault(stream?.kind) ?? methodFault(method) ?? urlFault(url) ?? headersFault(headers)
        ?? [url, ...headers.map(([, value]) => value)].map(secretFault).find(Boolean);
}

function kindFault(kind) {
    if (kind === undefined) return undefined;
    if (kind === "" || /\s/.test(kind) || byteLength(kind) > httpLimits.streamKindBytes) return `${JSON.stringify(kind)} is no kind of event: one word`;
    return kind === "error" || kind.startsWith("slotd.") ? `the event kind ${JSON.stringify(kind)} is reserved: slotd uses it itself` : undefined;
}

function methodFault(method) {
    if (method.length > httpLimits.requestMethodBytes || !WORD.test(method)) return `invalid method ${JSON.stringify(method)}`;
    return ["CONNECT", "TRACE"].includes(method) ? `${method} is not for requests of handlers` : undefined;
}

function urlFault(url) {
    if (byteLength(url) > httpLimits.requestUrlBytes) return `limit: the URL of a request may have ${httpLimits.requestUrlBytes} bytes`;
    const parsed = parseUrl(url.replace(SECRET, "secret"));
    if (parsed === undefined) return `invalid URL ${JSON.stringify(url)}`;
    if (!["http:", "https:"].includes(parsed.protocol)) return `the URL must begin with https:// or http://, not ${JSON.stringify(url)}`;
    return parsed.username || parsed.password ? "put credentials in a header, not in the URL" : undefined;
}

function parseUrl(text) {
    try {
        return new URL(text);
    } catch {
        return undefined;
    }
}

function headersFault(headers) {
    if (headers.length > httpLimits.requestHeaders) return `limit: a request may have ${httpLimits.requestHeaders} headers`;
    let bytes = 0;
    for (const [name, value] of headers) {
        if (!WORD.test(name)) return `invalid header name ${JSON.stringify(name)}`;
        if (NOT_THE_CALLERS.includes(name.toLowerCase())) return `slotd sets the header ${name} itself`;
        if (/[^\t -~\x80-\uffff]/.test(value)) return `the value of the header ${name} has control characters`;
        bytes += byteLength(name) + byteLength(value);
    }
    return bytes > httpLimits.requestHeaderBytes ? `limit: the headers of a request may have ${httpLimits.requestHeaderBytes} bytes` : undefined;
}

function secretFault(text) {
    for (const [, name] of text.matchAll(SECRET)) {
        if (!/^[A-Za-z0-9_]{1,64}$/.test(name)) return `${JSON.stringify(name)} is no name of a secret`;
    }
    return undefined;
}

/** What is wrong with the id or the options: the handler's to see to. */
export function requestProblem(id, { timeoutMs, deadlineMs, attempts, redirects, answerBytes, stream }) {
    const max = httpLimits;
    const idBytes = byteLength(id);
    if (idBytes < 1 || idBytes > max.requestIdBytes) {
        return `the id of a request must have 1 to ${max.requestIdBytes} bytes; this one has ${idBytes}`;
    }
    if (/\p{Cc}/u.test(id)) return `the id of a request has no control characters, and ${JSON.stringify(id)} has`;
    for (const [what, value, most] of [
        ["the timeout of an attempt, in milliseconds,", timeoutMs, max.requestTimeoutMs],
        ["the deadline, in milliseconds,", deadlineMs, max.requestDeadlineMs],
        ["the number of attempts", attempts, max.requestAttempts],
        ["the size of the answer's body", answerBytes, max.answerBytes],
    ]) {
        if (value !== undefined && (value < 1 || value > most)) return `${what} is 1 to ${most}, not ${value}`;
    }
    if (redirects > max.requestRedirects) return `at most ${max.requestRedirects} redirects are followed`;
    if (stream?.form.tag !== "joined") return undefined;
    const { val: path } = stream.form;
    if (byteLength(path) <= max.streamPathBytes && path.split(".").every((step) => step !== "")) return undefined;
    return `a path has keys and numbers with dots between them, and ${max.streamPathBytes} bytes at most: \`choices.0.delta.content\``;
}

/** The events of a part, and what it adds to the body. */
export function partOf({ request: { id, options } }, pieces) {
    const { stream } = options;
    if (stream === undefined) throw new Error(`the request ${JSON.stringify(id)} was made without \`stream\`: nothing of its answer is shown`);
    const { kind, form } = stream;
    if (form.tag === "data") {
        const texts = pieces.map((piece) => (typeof piece === "string" ? piece : stringify(piece)));
        // Of several lines each is a `data` of its own.
        const shown = texts.map((text) => `${text.split("\n").map((line) => `data: ${line}\n`).join("")}\n`);
        return { kind, texts, shown: shown.join("") };
    }
    if (!pieces.every((piece) => typeof piece === "string")) throw new TypeError("what is shown of this stream is text");
    const text = pieces.join("");
    return { kind, texts: text === "" ? [] : [text], shown: text };
}

/** The message that an answer becomes: its origin but for `attempt`, and its body. */
export function answerOf(open, status, { headers = {}, json, body, attempts }) {
    const { content, response } = responseOf(open, status, headers, json, body);
    return { ...content, origin: originOf(open, { tag: "response", val: response }, attempts) };
}

export function failureOf(open, code, reason, { status, headers = {}, json, body, attempts }) {
    const of = { code: String(code), reason: String(reason) };
    const nothing = { contentType: "application/octet-stream", bytes: new Uint8Array() };
    if (status === undefined) return { ...nothing, origin: originOf(open, { tag: "failure", val: of }, attempts) };
    const { content, response } = responseOf(open, status, headers, json, body);
    return { ...content, origin: originOf(open, { tag: "failure", val: { ...of, response } }, attempts) };
}

function originOf({ request, attempts: made, failures }, outcome, attempts = made) {
    return toOrigin({ id: request.id, outcome, attempts, attempt: failures + 1 });
}

function responseOf(open, status, headers, json, body) {
    if (!Number.isInteger(status) || status < 100 || status > 599) throw new TypeError(`a status is 200 or the like, not ${status}`);
    const { options } = open.request;
    const isShown = options.stream !== undefined && status >= 200 && status < 300;
    const given = toContent(json, body) ?? (isShown ? shownContent(open) : undefined);
    const pairs = (typeof headers[Symbol.iterator] === "function" ? [...headers] : Object.entries(headers))
        .map(([name, value]) => [name.toLowerCase(), String(value)]);
    const said = pairs.find(([name]) => name === "content-type")?.[1];
    const isJoined = isShown && options.stream.form.tag === "joined";
    // What is joined is no longer what the server said that it is.
    const contentType = isJoined ? TEXT : said ?? given?.contentType ?? "application/octet-stream";
    if (said === undefined && given?.headerType !== undefined) pairs.push(["content-type", given.headerType]);
    const kept = pairs.filter(([name]) => isKept(name, options.keepHeaders));
    return { content: { contentType, bytes: given?.bytes ?? new Uint8Array() }, response: { status, headers: kept } };
}

function toContent(json, body) {
    if (json !== undefined && body !== undefined) throw new TypeError("an answer has `json` or `body`, not both");
    if (json === undefined && body === undefined) return undefined;
    const { contentType, body: bytes } = json !== undefined ? Reply.json(json)
        : typeof body === "string" ? Reply.text(body)
        : body instanceof Reply ? body
        : Reply.bytes(Uint8Array.from(body));
    return { contentType, headerType: contentType, bytes: bytes.slice() };
}

/** What was shown is all that came, if the test says nothing else. */
function shownContent({ request: { options }, shown }) {
    const { body: bytes } = Reply.text(shown.join(""));
    const headerType = options.stream.form.tag === "text" ? TEXT : "text/event-stream";
    return { contentType: headerType, headerType, bytes };
}

function isKept(name, also) {
    return KEPT.includes(name) || also.some((kept) => {
        const lower = kept.toLowerCase();
        return lower.endsWith("*") ? name.startsWith(lower.slice(0, -1)) : name === lower;
    });
}

function byteLength(text) {
    return Buffer.byteLength(text);
}
