// The types of slotd's SDK for JavaScript and TypeScript. README.md has the whole in examples.

/// <reference path="./globals.d.ts" />

/** Where a message comes from. */
export type Origin =
    /** A client; the name that it gave as its sender, if any. */
    | { kind: "client"; sender: string | undefined }
    | SessionOrigin
    | AnswerOrigin
    | TimerOrigin
    | HttpOrigin
    | PresenceOrigin;

/** A timer that this session set. */
export interface TimerOrigin {
    kind: "timer";
    name: string;
    /** The time that it was set for, milliseconds since the Unix epoch. */
    dueMs: number;
    /** How many later times of its period have passed, too, and have no message of their own. */
    missed: number;
    /** How often it is tried, this time included: 1 the first time. */
    attempt: number;
}

/** A session of a service. */
export interface Address {
    service: string;
    session: string;
}

/** A session, of this or another service, that has sent the message. A client can't claim to be one. */
export interface SessionOrigin {
    kind: "session";
    sender: Address;
    /** How often the message is tried, this time included: 1 the first time. */
    attempt: number;
    /** The sender is told what this call replies, or why it does not. */
    replyWanted: boolean;
}

/** The outcome of a message that this session sent with `replyAs`. */
export interface AnswerOrigin {
    kind: "answer";
    /** As in `replyAs`. */
    name: string;
    /** The session that the message was sent to. */
    sender: Address;
    /** Why the message was not handled, and is not sent again; undefined where it was: the body is the reply. */
    refusal: Refusal | undefined;
    /** How often the outcome is tried, this time included: 1 the first time. */
    attempt: number;
}

/** Why a message was not handled: the rejection of the other's handler, or the error that a client would have got. */
export interface Refusal {
    code: string;
    message: string;
    /** Whether the same may succeed later. */
    retriable: boolean;
}

/** What came of a request over HTTP: an answer, whatever its status, or why there is none. */
export type HttpOrigin = {
    kind: "http";
    /** As in `cx.http.request`. */
    id: string;
    /** How often the request was made. */
    attempts: number;
    /** How often this message is tried, this time included: 1 the first time. */
    attempt: number;
} & ({ response: HttpResponse; failure: undefined } | { response: undefined; failure: HttpFailure });

/** An answer without its body. */
export interface HttpResponse {
    status: number;
    /** The status is 200 to 299. */
    ok: boolean;
    /** Those that are kept, with names in lower case; where there are several of a name, joined with `", "`. */
    headers: Record<string, string>;
    /** The same, one by one. */
    rawHeaders: [name: string, value: string][];
}

/** Why a request has no answer. */
export interface HttpFailure {
    /**
     * `refused`, `invalid`, `secret-unknown`, `busy`, `dns`, `connect`, `tls`, `timeout`, `too-large`, `redirect`,
     * `protocol` or `deadline`; later versions may have more.
     */
    code: string;
    /** One sentence, for people. */
    reason: string;
    /** Of an answer that did not come to its end: the body is what had come of it. */
    response: HttpResponse | undefined;
}

/** The session's subscribers have come or gone: see `Context.watchSubscribers`. */
export interface PresenceOrigin {
    kind: "presence";
    /** There is one, and there was none; else the last one has gone. */
    present: boolean;
}

/**
 * Who a client was shown to be. What it says of itself, `cx.sender`, is checked by nobody; this was, by a token. It is kept
 * with the message.
 */
export interface Client {
    /**
     * How it was shown: `token` by a token with a name, which is the subject; `session` by a token that slotd has minted
     * for this session; `root` by the listener's own; else the name of the issuer of its token, as the operator's
     * policy has it.
     */
    kind: string;
    /** Who it is, among those of its kind; undefined: nobody in particular. */
    subject: string | undefined;
    /** What is said of it besides, of what the operator has named. */
    claims: Record<string, string | undefined>;
}

/** Levels of the node's log. */
export type Level = "trace" | "debug" | "info" | "warn" | "error";

/** Where nothing is said of the state's shape. */
export type AnyState = Record<string, any>;

type Key<S> = keyof S & string;
type Under<S, P extends string> = Key<S> & `${P}${string}`;

/**
 * The session's state, to read: a sorted map from text keys to bytes, here as JSON values. Sees
 * the writes of its own call.
 *
 * `S` says what lies where: `{ count: number; [ballot: `ballot/${string}`]: string }`.
 */
export class StateView<S extends object = AnyState> {
    private constructor();
    /**
     * The value under `key`, from JSON; undefined if there is none. A whole number that a
     * JavaScript number can't hold exactly comes as a BigInt.
     * @throws {Rejection} `bad-state` where the value is not JSON
     */
    get<K extends Key<S>>(key: K): S[K] | undefined;
    getBytes(key: Key<S>): Uint8Array | undefined;
    has(key: Key<S>): boolean;
    /**
     * The pairs whose key starts with `prefix` and is greater than `after`, in order of the keys'
     * bytes. Reads pages as it goes: a write behind it is not seen, one ahead of it may be.
     */
    scan<P extends string = "">(
        prefix?: P,
        options?: { after?: string },
    ): IterableIterator<[key: Under<S, P>, value: S[Under<S, P>]]>;
    scanBytes<P extends string = "">(
        prefix?: P,
        options?: { after?: string },
    ): IterableIterator<[key: Under<S, P>, value: Uint8Array]>;
    /** One page as the host gives it: up to `limit` pairs, 1,000 at most. `scan` is what you want. */
    page(prefix: string, after: string | undefined, limit: number): [key: string, value: Uint8Array][];
}

/**
 * The session's state, to read and to write. A key has 1,024 bytes at most, a value 1 MiB, and what
 * one message writes 4 MiB; past a limit the call ends in a trap and nothing is kept.
 */
export class State<S extends object = AnyState> extends StateView<S> {
    /** Stores `value` under `key` as JSON; a BigInt as its digits. */
    set<K extends Key<S>>(key: K, value: S[K]): void;
    setBytes(key: Key<S>, value: Uint8Array): void;
    /** Deleting what is not there is no error. */
    delete(key: Key<S>): void;
}

type Unit = "ms" | "s" | "m" | "h" | "d";

/** So long: a number of milliseconds, or text: `"500ms"`, `"30s"`, `"10m"`, `"2h"`, `"1d"`. */
export type Duration = number | `${number}${Unit}`;

/** A timer that is set. */
export class Timer {
    private constructor();
    readonly name: string;
    /** The time that it is for next, milliseconds since the Unix epoch. */
    readonly dueMs: number;
    readonly contentType: string;
    readonly body: Uint8Array;
    /** How often the message for that time has failed. */
    readonly failures: number;
    /** The body from JSON. */
    json(): any;
    text(): string;
}

/** The session's timers, to read. */
export class TimersView {
    private constructor();
    get(name: string): Timer | undefined;
    /** All of them, in order of the names' bytes. */
    list(): Timer[];
}

/**
 * The session's timers: messages that it sends itself later. They are set and cancelled with the
 * message that does so, or not at all. A timer's message has the body that it was set with (as JSON; a
 * `Reply` as it is) and an `origin` of the kind `timer`. Setting one of a name that is set replaces it.
 *
 * Those that set one give the time that it is for, in milliseconds since the Unix epoch. They throw a
 * `Rejection` `bad-moment` where there can be no such time, and a `TypeError` for what is no time at all.
 *
 * A name has 1 to 128 bytes and no control characters; a session has 1,000 timers and 1 MiB of them,
 * 64 KiB a body, and one message sets or cancels 256. Past a limit the call ends in a trap.
 */
export class Timers extends TimersView {
    private constructor();
    /** Fires once, so long after this message's time: never earlier. */
    after(name: string, delay: Duration, body?: unknown): number;
    /**
     * Fires once, at a time; one that has passed is due now; in a timer's own message 100 ms later at the
     * earliest.
     */
    at(name: string, time: Date | number, body?: unknown): number;
    /**
     * Fires again and again, the first time that long after this message's time; 100 ms at least. A
     * period does not drift: times that were missed are one message that says how many.
     */
    every(name: string, period: Duration, body?: unknown): number;
    /**
     * Fires at the times that a cron expression names, as `every`.
     * @param expression five fields: minute, hour, day of the month, month, day of the week
     * @param zone a time zone by its IANA name: `Europe/Berlin`, `UTC`
     */
    cron(name: string, expression: string, zone: string, body?: unknown): number;
    /** Whether there was one. */
    cancel(name: string): boolean;
}

/** How a request is made. What is not given is as the node has it. */
export interface HttpOptions {
    headers?: Readonly<Record<string, string | number | readonly string[]>> | Iterable<readonly [name: string, value: string]>;
    /** The body, as JSON. */
    json?: unknown;
    /** The body: text, bytes, or a `Reply` with its content type. 256 KiB at most. */
    body?: string | Uint8Array | ArrayBuffer | Reply;
    /** Of one attempt, with all of its answer. `"60s"` if not given; 10 minutes at most. */
    timeout?: Duration;
    /** Of all attempts together, from this message's time on. `"10m"` if not given; a day at most. */
    deadline?: Duration;
    /** How often it is tried; 5 if not given, 20 at most. */
    attempts?: number;
    /** How many redirects are followed; 5 if not given, 10 at most. With 0 a redirect is an answer. */
    redirects?: number;
    /** Bytes of the answer's body, decompressed; 1 MiB if not given, which is the most. */
    answerBytes?: number;
    /** Headers of the answer that are kept beside those that always are, by name or by `prefix*`. */
    keepHeaders?: readonly string[];
    /** The answer is shown to the session's subscribers while it comes. */
    stream?: HttpStream;
}

/** How an answer is shown while it comes: as events that have their place in the session's history. */
export interface HttpStream {
    /** Of the events, as in `Context.emit`. */
    kind: string;
    /**
     * - `"text"`, which it is if not given: as text, as it comes.
     * - `"data"`: the `data` of each server-sent event, one event each.
     * - `{ joined: "choices.0.delta.content" }`: the text at this path of each server-sent event's data, which is JSON.
     *   All of it joined is the body of the answer.
     */
    form?: "text" | "data" | { joined: string };
}

/** The session's requests, to read. */
export class HttpView {
    private constructor();
    /** The ids of the requests whose answer the handler has not had, in order of their bytes. */
    open(): string[];
}

/**
 * The session's requests over HTTP. One is made once this message is durable, **at least** once: each attempt has the
 * same header `idempotency-key`, which no other request has. Its answer, or why there is none, is a message of this
 * session: see `Handler.httpAnswer`.
 *
 * A service reaches only the hosts that its operator names in `effects.http`; a request to another one, or with a secret
 * that is not for that host, ends the call (403 `request-refused`). 16 requests that one message makes, 100 that are
 * open, 256 KiB a body; past a limit, and where URL, method or headers can't be any, the call ends in a trap.
 */
export class Http extends HttpView {
    private constructor();
    /**
     * Makes a request, in place of an open one of that id.
     * @param id 1 to 128 bytes, no control characters
     * @param init.method `"GET"` if not given
     * @throws {Rejection} `bad-request` where an option can't be so; {TypeError} for what is no request at all
     */
    request(id: string, url: string, init?: HttpOptions & { method?: string }): void;
    get(id: string, url: string, options?: HttpOptions): void;
    post(id: string, url: string, options?: HttpOptions): void;
    put(id: string, url: string, options?: HttpOptions): void;
    patch(id: string, url: string, options?: HttpOptions): void;
    delete(id: string, url: string, options?: HttpOptions): void;
    /** Ends a request: its answer will not come, though it may have been made. Whether there was one. */
    cancel(id: string): boolean;
}

/**
 * What stands in a URL or the value of a header for the operator's secret of that name: `{{secret:NAME}}`. The handler
 * never sees the secret itself, and neither does the session's history.
 * @throws {TypeError} where it can't be the name of one: letters, digits and `_`, 64 at most
 */
export function secret(name: string): string;

/** The body of an answer. */
export class HttpBody {
    private constructor();
    readonly contentType: string;
    readonly bytes: Uint8Array;
    /**
     * From JSON.
     * @throws {Rejection} `bad-message` where it is none: the answer is then kept for an operator
     */
    json(): any;
    text(): string;
}

/** When a session expires: so long after the message's time, or at a time. */
export type Expiry = { after: Duration; at?: undefined } | { at: Date | number; after?: undefined };

/** The message being handled, and what its handler can do. */
export class Context<S extends object = AnyState> {
    private constructor();
    /** The session's id within its service. */
    readonly session: string;
    /** The number that this message gets if it is not rejected. Parts of streams have numbers, too. */
    readonly seq: number;
    /** The sender's idempotency key, if it gave one. */
    readonly id: string | undefined;
    readonly origin: Origin;
    /** The name that a client gave as its sender, if the message is from a client and it gave one. */
    readonly sender: string | undefined;
    /**
     * Who the client was shown to be that has sent the message: `cx.client?.subject`. Undefined where nobody was, and
     * where the message is not from a client. The host is asked each time.
     */
    readonly client: Client | undefined;
    /** The body's type, as the sender gave it. */
    readonly contentType: string;
    /** The time of the message, milliseconds since the Unix epoch; `Date.now()` is the same. */
    readonly timeMs: number;
    readonly state: State<S>;
    /** The session's timers: messages that it sends itself later. */
    readonly timers: Timers;
    /** The session's requests over HTTP. */
    readonly http: Http;
    /**
     * Tells the session's subscribers, once the message is durable. `kind` is a word, none that
     * slotd itself uses (`error`, and all that begin with `slotd.`); the body is `value` as JSON.
     * 256 events and 1 MiB of them a message.
     * @throws {TypeError} as `State.set`
     */
    emit(kind: string, value: unknown): void;
    emitBytes(kind: string, contentType: string, body: Uint8Array): void;
    /**
     * Tells whoever is subscribed to the session at that moment, in passing: an ephemeral event. It
     * is sent once the message is durable, after what the message emitted, and at most once. It has
     * no place in the history: nobody gets it later, and a subscriber that is slow misses it. 64 of
     * them and 256 KiB a message; else as `emit`.
     * @throws {TypeError} as `State.set`
     */
    notify(kind: string, value: unknown): void;
    notifyBytes(kind: string, contentType: string, body: Uint8Array): void;
    /**
     * Has the session deleted at a time, with all that it has: its state and history, timers, and messages
     * that are on their way. What expires begins anew with its next message. It is said with this message,
     * or not at all. A later message may say another time, or call it off with `keep`; one that says nothing
     * of it changes nothing. A time that has passed is now, once the message is durable.
     * @param when `{ after: "10m" }`, or `{ at: date }`: a `Date`, or milliseconds since the Unix epoch
     * @throws {Rejection} `bad-moment` where there can be no such time; {TypeError} for what is no time at all
     */
    expire(when: Expiry): void;
    /** The session does not expire. */
    keep(): void;
    /**
     * Closes the session with this message: it takes no more of them, of whomever, and is still read and queried. Its
     * timers and requests end, and it hears no more of what it has sent, which goes on its way. It still expires.
     */
    close(): void;
    /**
     * Has `Handler.presence` told when the session's first subscriber comes, and when the last one has been gone for
     * some seconds; with `false` not any more.
     */
    watchSubscribers(wanted?: boolean): void;
    /**
     * Sends a message to another session, or to this one: once this message is durable, and exactly once.
     * What is sent to one session arrives in order. The body is sent as JSON, a `Reply` as it is.
     *
     * With `replyAs` the outcome comes back as a message of this session, under that name: see
     * `Handler.answer`. Without it, what the other refuses is kept for an operator.
     *
     * A service sends only to those that its operator names in `effects.send`. 256 messages that one
     * message sends, 256 KiB a body; past a limit the call ends in a trap.
     * @param to `"service/session"`, or an `Address`; the session need not be there yet
     * @param options.replyAs 1 to 128 bytes, no control characters
     * @throws {Rejection} `bad-send` where the address or the name can't be one; {TypeError} as `State.set`
     */
    send(to: `${string}/${string}` | Address, body?: unknown, options?: { replyAs?: string | undefined }): void;
    /** A line for the node's log; `console.log` and its like do the same. 100 lines a call. */
    log(level: Level, text: string): void;
    /**
     * A body from JSON, for raw handlers.
     * @throws {Rejection} `bad-message` where it is none
     */
    parse(body: Uint8Array): any;
}

/** The query being answered: without any way to change something. */
export class QueryContext<S extends object = AnyState> {
    private constructor();
    readonly session: string;
    /** The number of the last message that the state reflects; 0 before the first. */
    readonly seq: number;
    /** As `Context.client`, of the client that asks. */
    readonly client: Client | undefined;
    readonly contentType: string;
    readonly timeMs: number;
    readonly state: StateView<S>;
    readonly timers: TimersView;
    readonly http: HttpView;
    log(level: Level, text: string): void;
    /**
     * A body from JSON, for raw handlers.
     * @throws {Rejection} `bad-query` where it is none
     */
    parse(body: Uint8Array): any;
}

/** A session's migration from another version: its state, in whatever shape that one left it. */
export class MigrateContext {
    private constructor();
    readonly state: State<AnyState>;
    log(level: Level, text: string): void;
}

/**
 * A refusal. Thrown by a handler it becomes the sender's error (422, with this code) and changes
 * nothing. Anything else that is thrown is a fault: logged, and the call ends in a trap.
 */
export class Rejection extends Error {
    /**
     * @param code kebab-case, for programs
     * @param message one sentence, for people
     * @param options.retriable whether the same message may succeed later
     */
    constructor(code: string, message: string, options?: { retriable?: boolean });
    readonly code: string;
    readonly retriable: boolean;
}

/** A body of any type. */
export class Reply {
    constructor(contentType: string, body: Uint8Array);
    /** `value` as JSON. */
    static json(value: unknown): Reply;
    static text(text: string): Reply;
    static bytes(body: Uint8Array, contentType?: string): Reply;
    readonly contentType: string;
    readonly body: Uint8Array;
    /** The body from JSON, for tests. */
    json(): any;
    text(): string;
}

/** What a handler may return: no Promise, since a handler computes its answer at once. */
export type Answer = string | number | bigint | boolean | null | undefined | void | (object & { then?: never });

/**
 * What decides what happens to the messages of a session, with JSON in and out.
 *
 * It keeps nothing in memory: whatever it must remember is in the session's state, because its own
 * variables may be thrown away between any two calls, and serve many sessions in between.
 */
export interface Handler<Message = any, Query = any, S extends object = AnyState> {
    /**
     * Applies a message. When it returns, all that it wrote and emitted is committed with the
     * message, and what it returned goes out as JSON (a `Reply` as it is) once that is durable.
     * When it throws, nothing is kept.
     */
    handle(cx: Context<S>, message: Message): Answer;
    /**
     * Applies the outcome of a message that this session sent with `replyAs`: as `handle`, except that
     * `parseMessage` is not asked.
     *
     * Without it an outcome is rejected as `no-answers`, and kept for an operator.
     * @param answer whose outcome it is, the same as `cx.origin`; with `refusal` where it was not handled
     * @param reply what the other session replied, from JSON; undefined where it refused
     */
    answer?(cx: Context<S>, answer: AnswerOrigin, reply: any): Answer;
    /**
     * Applies what came of a request (`cx.http`): as `handle`, except that `parseMessage` is not asked. It may make
     * another request of the same id.
     *
     * Without it an answer is rejected as `no-requests`, and kept for an operator.
     * @param answer whose answer it is, the same as `cx.origin`; with `failure` where there is none
     * @param body the answer's body; of a failure what had come of it
     */
    httpAnswer?(cx: Context<S>, answer: HttpOrigin, body: HttpBody): Answer;
    /**
     * The session's subscribers have come, or gone: as `handle`, except that what fails is not tried again. Only with
     * `cx.watchSubscribers()`.
     * @param present there is one, and there was none; else the last one has gone
     */
    presence?(cx: Context<S>, present: boolean): Answer;
    /** Answers a question from the state; it can't change anything. */
    query?(cx: QueryContext<S>, query: Query): Answer;
    /**
     * Brings a session's state from the shape that version `from` left to this version's. Called
     * once a session, in the transaction of its first message under this version, never for a new
     * session. To refuse, return why: the session then stays on `from`, working.
     *
     * It is called on the way back too: `from` may be a later version. Without a `migrate` of its
     * own a version takes sessions over from earlier versions and from its own, as they are, and
     * from no later one.
     */
    migrate?(cx: MigrateContext, from: string): string | Rejection | undefined | void;
    /** Checks and shapes a message's JSON; what it throws becomes a rejection `bad-message`. */
    parseMessage?(value: unknown): Message;
    /** As `parseMessage`, for queries: `bad-query`. */
    parseQuery?(value: unknown): Query;
}

/** As `Handler`, with bytes in and a `Reply` out. `handle` gets outcomes, answers and presence too: see `cx.origin`. */
export interface RawHandler<S extends object = AnyState> {
    handle(cx: Context<S>, body: Uint8Array): Reply;
    query?(cx: QueryContext<S>, body: Uint8Array): Reply;
    migrate?(cx: MigrateContext, from: string): string | Rejection | undefined | void;
}

/** `export default handler<Message, Query, State>({ .. })`: what a plugin's module exports. */
export function handler<Message = any, Query = any, S extends object = AnyState>(
    methods: Handler<Message, Query, S>,
): Handler<Message, Query, S>;

/** `export default rawHandler<State>({ .. })`. */
export function rawHandler<S extends object = AnyState>(methods: RawHandler<S>): RawHandler<S>;

/** JSON with whole numbers of any size exact, as BigInt where a number can't hold them. */
export function parseJson(text: string): any;
/** JSON with each BigInt as its digits. */
export function stringifyJson(value: unknown): string;
