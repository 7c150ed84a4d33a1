import type { AnyState, Handler, Level, RawHandler, Reply } from "./index.d.ts";

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
}

/** A handler's fault, a passed limit, or something that is not allowed. Nothing was kept. */
export class Trapped extends Error {
    /** What the handler threw, if it did. */
    readonly cause: unknown;
}

/** `migrate`'s own refusal: the session would stay on the version before. */
export class Refused extends Error {}

/**
 * One session under a handler, with the host's rules: a message is applied whole or not at all,
 * the number rises on success only, a query can't change anything, time and chance are the
 * message's. Not modelled: the deadline and the memory limit.
 *
 * A refusal is thrown as the handler's own `Rejection`, a fault as `Trapped`.
 */
export class Harness<Message = any, Query = any, S extends object = AnyState> {
    /** A new session, or one that is already there. */
    constructor(handler: Handler<Message, Query, S> | RawHandler<S>, session?: Partial<Session>);
    /** To change its name, clock or state under the handler. */
    readonly session: Session;
    /** Forgets the session and what was logged: a test begins with a new one. */
    reset(): void;
    /** Sends a message with a JSON body; gives the reply, from JSON. */
    send(sender: string | null | undefined, message: Message): any;
    sendBytes(sender: string | null | undefined, contentType: string, body: Uint8Array | string): Reply;
    /** Asks a query with a JSON body; gives the answer, from JSON. */
    query(query: Query): any;
    queryBytes(contentType: string, body: Uint8Array | string): Reply;
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
