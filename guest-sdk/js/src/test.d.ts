import type { Address, AnyState, Duration, Handler, Level, RawHandler, Rejection, Reply, Timer } from "./index.d.ts";

/** The host's limits, as its own defaults have them. */
export const limits: {
    readonly hostCalls: number;
    readonly keyBytes: number;
    readonly valueBytes: number;
    readonly writeBytes: number;
    readonly scanEntries: number;
    readonly scanBytes: number;
    readonly replyBytes: number;
    readonly events: number;
    readonly eventBytes: number;
    readonly notified: number;
    readonly notifiedBytes: number;
    readonly timers: number;
    readonly timerNameBytes: number;
    readonly timerBytes: number;
    readonly timerBodyBytes: number;
    /** Timers that a message may set or cancel. */
    readonly timerChanges: number;
    /** The shortest period. */
    readonly timerPeriodMs: number;
    /** The last time that a timer can be set for, or a session can expire at. */
    readonly timerMs: number;
    readonly timerCronBytes: number;
    readonly timerAttempts: number;
    /** The longest that a timer's message waits after a failure. */
    readonly timerRetryMs: number;
    /** Messages of timers in one `advance`: the harness's own limit. */
    readonly fired: number;
    /** Messages to other sessions, of one message. */
    readonly sends: number;
    readonly sendBodyBytes: number;
    /** Bytes of the name that a reply comes back under. */
    readonly sendNameBytes: number;
    readonly sendAttempts: number;
    readonly serviceNameBytes: number;
    readonly sessionIdBytes: number;
    readonly contentTypeBytes: number;
    /** Requests over HTTP that one message makes. */
    readonly requests: number;
    readonly requestIdBytes: number;
    readonly requestBodyBytes: number;
    /** Method, URL and headers. */
    readonly requestHeadBytes: number;
    readonly requestMethodBytes: number;
    readonly requestUrlBytes: number;
    readonly requestHeaders: number;
    readonly requestHeaderBytes: number;
    readonly requestTimeoutMs: number;
    readonly requestDeadlineMs: number;
    readonly requestAttempts: number;
    readonly requestRedirects: number;
    readonly requestKeepHeaders: number;
    readonly requestKeepHeaderBytes: number;
    readonly streamKindBytes: number;
    readonly streamPathBytes: number;
    readonly answerBytes: number;
    /** How often the message that an answer becomes is tried. */
    readonly answerAttempts: number;
    readonly logLines: number;
    readonly logLineBytes: number;
};

/** An event that a message emitted, or sent in passing. */
export interface Event {
    /** The message's sequence number. */
    readonly seq: number;
    readonly kind: string;
    readonly contentType: string;
    readonly body: Uint8Array;
    /** The body from JSON. */
    json(): any;
}

export interface LogLine {
    readonly level: Level;
    readonly text: string;
}

/** What became of a timer's message. */
export interface Fired {
    readonly name: string;
    /** The time that the timer was set for. */
    readonly dueMs: number;
    readonly missed: number;
    readonly attempt: number;
    /** When it was tried: the session's clock. */
    readonly timeMs: number;
    /** The reply, which nobody gets; undefined where it failed. */
    readonly reply: Reply | undefined;
    /** What the handler failed with, if it did. */
    readonly error: Rejection | Trapped | undefined;
    readonly events: readonly Event[];
    readonly notified: readonly Event[];
    /** The reply from JSON; throws `error` where there is one. */
    json(): any;
}

/**
 * A timer's message that was given up: after 20 attempts, or a rejection that is not retriable. On a
 * node it is kept for an operator.
 */
export interface Dead {
    readonly name: string;
    readonly dueMs: number;
    /** How often it was tried. */
    readonly attempts: number;
    readonly contentType: string;
    readonly body: Uint8Array;
    /** What the last attempt ended with. */
    readonly error: Rejection | Trapped;
}

/** A message that a session sent to another. */
export interface Sent {
    /** The sequence number of the message that sent it. */
    readonly seq: number;
    /** `service/session`. */
    readonly to: string;
    readonly contentType: string;
    readonly body: Uint8Array;
    /** The name that the outcome comes back under, if it does. */
    readonly replyAs: string | undefined;
    /** The body from JSON. */
    json(): any;
    text(): string;
}

/** A request over HTTP that a message made. */
export interface Requested {
    /** The sequence number of the message that made it. */
    readonly seq: number;
    readonly id: string;
    readonly method: string;
    readonly url: string;
    readonly headers: readonly [name: string, value: string][];
    readonly body: Uint8Array;
    readonly options: RequestedOptions;
    /** The value of a header, whatever the case of its name. */
    header(name: string): string | undefined;
    /** The body from JSON. */
    json(): any;
    text(): string;
}

/** Options of a request, as the host has them. */
export interface RequestedOptions {
    readonly timeoutMs: number | undefined;
    readonly deadlineMs: number | undefined;
    readonly attempts: number | undefined;
    readonly redirects: number | undefined;
    readonly answerBytes: number | undefined;
    readonly keepHeaders: readonly string[];
    readonly stream: { kind: string; form: { tag: "text" | "data" } | { tag: "joined"; val: string } } | undefined;
}

/** An answer to a request, as a test gives it. */
export interface GivenAnswer {
    /** Those that the request does not keep are left out, as a node does. */
    headers?: Readonly<Record<string, string | number>> | Iterable<readonly [name: string, value: string]>;
    /** The body, as JSON. */
    json?: unknown;
    /** The body: text, bytes, or a `Reply` with its content type. Where there is none, it is what was shown as parts. */
    body?: string | Uint8Array | Reply;
    /** Parts of the stream that come before: see `Harness.part`. Several pieces of one part are an array. */
    parts?: readonly unknown[];
    /** How often the request was made; as often as it was restarted, and once more, if not given. */
    attempts?: number;
}

/** When a timer of a session fires, as the host has it. */
export type When =
    | { tag: "at" | "after" | "every"; val: number }
    | { tag: "cron"; val: { expression: string; zone: string } };

/** A timer of a session. */
export interface SetTimer {
    readonly when: When;
    /** The time that it is for next. Of a cron timer it is not known: see `Harness.fire`. */
    readonly dueMs: number;
    /** When that is tried: at `dueMs`, or later when it has failed. */
    readonly nextMs: number;
    readonly failures: number;
    readonly contentType: string;
    readonly body: Uint8Array;
}

/** A session: all that is left of it between two calls. */
export interface Session {
    name: string;
    /** The last message's sequence number. */
    seq: number;
    /** The clock, milliseconds since the Unix epoch. Set it as the test needs. */
    timeMs: number;
    /** Key to bytes, in no particular order. */
    state: Map<string, Uint8Array>;
    events: Event[];
    /** What its messages sent in passing (`cx.notify`); a real session keeps nothing of it. */
    notified: Event[];
    /** By name, in no particular order. */
    timers: Map<string, SetTimer>;
    /** When it is deleted; undefined: not at all. */
    expiresMs: number | undefined;
    /** Messages of timers that were given up. */
    dead: Dead[];
    /** What its messages sent to other sessions, in order. */
    sent: Sent[];
    /** Of that, what waits for its outcome, and how often its handler has failed that. */
    unanswered: { sent: Sent; failures: number }[];
    /** All requests over HTTP that its messages made, in order. */
    requests: Requested[];
    /**
     * Of them, those whose answer the handler has not had: how often each was made, what of its answer was shown, and
     * how often the handler has failed it.
     */
    openRequests: Map<string, { request: Requested; attempts: number; shown: string[]; failures: number }>;
    /** It takes no more messages. */
    closed: boolean;
    /** It is told when its subscribers come and go. */
    watchesSubscribers: boolean;
}

/** A handler's fault, a passed limit, or something that is not allowed. Nothing was kept. */
export class Trapped extends Error {
    /** What the handler threw, if it did. */
    readonly cause: unknown;
}

/** The session was closed before, and takes no more messages. */
export class Closed extends Error {
    readonly code: "session-closed";
}

/** `migrate`'s own refusal: the session would stay on the version before. */
export class Refused extends Error {}

/**
 * One session under a handler, with the host's rules: a message is applied whole or not at all,
 * the number rises on success only, a query can't change anything, time and chance are the
 * message's. The session's clock is the test's: `advance` moves it on and has timers fire. What it sends
 * to other sessions goes nowhere: the test looks at `sent`, and says what comes back. So it is with
 * requests over HTTP: `requests`, `respond` and `fail`. Not modelled: the deadline, the memory limit, the
 * times of cron expressions, which services may send to which and which hosts they may reach, secrets, how
 * many messages may be on their way and requests open, and the deadlines of requests.
 *
 * A refusal is thrown as the handler's own `Rejection`, a fault as `Trapped`.
 */
export class Harness<Message = any, Query = any, S extends object = AnyState> {
    /** A new session, or one that is already there. */
    constructor(handler: Handler<Message, Query, S> | RawHandler<S>, session?: Partial<Session>);
    /** To change its name, clock or state under the handler. */
    readonly session: Session;
    /** Who the client is shown to be that sends and asks from now on; undefined, as at first: nobody. */
    client: { kind: string; subject?: string | undefined; claims?: Readonly<Record<string, string>> } | undefined;
    /** Forgets the session and what was logged: a test begins with a new one. */
    reset(): void;
    /** Sends a message with a JSON body; gives the reply, from JSON. */
    send(sender: string | null | undefined, message: Message): any;
    sendBytes(sender: string | null | undefined, contentType: string, body: Uint8Array | string): Reply;
    /** Asks a query with a JSON body; gives the answer, from JSON. */
    query(query: Query): any;
    queryBytes(contentType: string, body: Uint8Array | string): Reply;
    /**
     * Moves the session's clock on, and has the timers fire that are due meanwhile, in the order of
     * their times, each at its time; also those that are tried again after a failure, and those that a
     * timer's message sets. Gives what became of each; a handler that fails makes it throw nothing.
     *
     * A session that is to expire meanwhile is deleted at that time, after what is due by then: nothing is
     * left of it but its name and the clock, and the next message is its first.
     *
     * Where a test changes the clock itself nothing fires: what is overdue then fires first at the next
     * call, and what it missed is counted.
     * @throws {Error} while a cron timer is set, since its times are not known here: see `fire`
     */
    advance(by: Duration): Fired[];
    /**
     * Has one timer fire, and none before it: at its time, to which the clock moves on, or now if that
     * has passed. A cron timer fires now.
     */
    fire(name: string): Fired;
    /** The timers that are set, in order of the names' bytes. */
    readonly timers: Timer[];
    /** When the session is deleted, milliseconds since the Unix epoch; undefined: not at all. */
    readonly expires: number | undefined;
    /** Every timer's message that was given up, in order. */
    readonly dead: readonly Dead[];
    /**
     * Has another session send a message: JSON, a `Reply` as it is. Gives the reply, from JSON.
     * @param from `"service/session"`, or an `Address`
     */
    deliver(
        from: `${string}/${string}` | Address,
        message?: unknown,
        options?: { attempt?: number; replyWanted?: boolean },
    ): any;
    /**
     * Has the other session reply to what this one sent with `replyAs: name`; of several, to the first
     * that has no outcome yet. The reply is JSON, a `Reply` as it is. Gives what the handler replies,
     * from JSON.
     *
     * Where the handler fails it throws that, and the outcome can be tried again, with the next `attempt`;
     * it is given up after 20 attempts, or a rejection that is not retriable.
     * @param options.from of those of that name, one that was sent to this session
     * @throws {Error} where nothing waits for it
     */
    answer(
        name: string,
        reply?: unknown,
        options?: { from?: `${string}/${string}` | Address },
    ): any;
    /** As `answer`, where the other session refuses, or can't be reached. */
    refuse(
        name: string,
        code: string,
        message: string,
        options?: { retriable?: boolean; from?: `${string}/${string}` | Address },
    ): any;
    /** All that its messages sent to other sessions so far, in order. */
    readonly sent: readonly Sent[];
    /** Of that, what waits for its outcome. */
    readonly unanswered: readonly Sent[];
    /**
     * Has an open request answered. Gives what the handler replies, from JSON.
     *
     * Where the handler fails it throws that, and the request can be answered again, with the next `attempt`; it is
     * given up after 20 attempts, or a rejection that is not retriable.
     * @param status 200 if not given
     * @throws {Error} where there is no such request
     */
    respond(id: string, status?: number, answer?: GivenAnswer): any;
    /**
     * As `respond`, where the request fails for good.
     * @param code `timeout`, `connect`, ..: see `HttpFailure`
     * @param failure.status of an answer that did not come to its end
     */
    fail(id: string, code: string, reason?: string, failure?: GivenAnswer & { status?: number }): any;
    /**
     * Has a part of a stream shown: what came of the answer at once. It is an entry of the history, with a sequence
     * number. Pieces are text: of the form `data` each is one event, and may be JSON; else all of them are one.
     */
    part(id: string, ...pieces: unknown[]): readonly Event[];
    /** Has a request made again after its connection broke: where something was shown, an event says that it is void. */
    restart(id: string): readonly Event[];
    /** All requests that its messages made so far, in order. */
    readonly requests: readonly Requested[];
    /** Of them, those whose answer the handler has not had, in order of the ids' bytes. */
    readonly openRequests: readonly Requested[];
    /**
     * Has the session's first subscriber come, or the last one go. Gives what the handler replies, from JSON; what it
     * fails is not tried again.
     * @throws {Error} where the handler does not watch
     */
    presence(present: boolean): any;
    /** The session is closed: messages throw `Closed`. */
    readonly closed: boolean;
    /** The handler is told of subscribers. */
    readonly watchesSubscribers: boolean;
    /** Runs `migrate`, as the host does before a session's first message under this version. */
    migrate(from: string): void;
    /** The session under another handler, after that one's `migrate`. */
    swap<M = any, Q = any, T extends object = AnyState>(
        next: Handler<M, Q, T> | RawHandler<T>,
        from: string,
    ): Harness<M, Q, T>;
    /** The value under `key`, from JSON; undefined if there is none. */
    get<K extends keyof S & string>(key: K): S[K] | undefined;
    /** Every key, in order of its bytes. */
    keys(): string[];
    /** The last message's sequence number. */
    readonly seq: number;
    /** Every event so far, in order. */
    readonly events: readonly Event[];
    /** Every ephemeral event so far (`cx.notify`), in order. */
    readonly notified: readonly Event[];
    /** What was logged since the last look, by failed calls too. */
    takeLog(): LogLine[];
}
