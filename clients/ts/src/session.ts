// One session: messages to it, what it says, its events.

import { decode, encode, shaped } from "./body.js";
import { SlotdError } from "./errors.js";
import { Feed, type FeedOptions, type Notification, type SlotdEvent, type Status } from "./feed.js";
import type { Answer, Call, Http } from "./http.js";
import { Limit, race } from "./wait.js";

/**
 * What a service's messages are, for the type checker. All are optional, and `any` where they are left out:
 *
 *     interface Chat { message: Say; reply: { n: number }; events: { line: Line }; notifications: { typing: boolean } }
 *     const room = slotd.session<Chat>("chat", "room-17");
 */
export interface Types {
  message?: unknown;
  reply?: unknown;
  query?: unknown;
  answer?: unknown;
  events?: object;
  notifications?: object;
}

type Of<T, Name extends string> = T extends Record<Name, infer V> ? V : any;
type Kinds<T, Name extends string> = T extends Record<Name, infer V> ? keyof V & string : string;
type Body<T, Name extends string, Kind> = T extends Record<Name, infer V> ? (Kind extends keyof V ? V[Kind] : any) : any;

export interface BodyOptions {
  /** Of bytes and text; without it a body is sent as JSON. */
  contentType?: string;
  /** Instead of the client's own. */
  sender?: string;
}

export interface SendOptions extends Call, BodyOptions {
  /** Made if left out. A repeat of a message with the same key is applied once. */
  idempotencyKey?: string;
  /** `false`: it does not wait for messages before it, and later ones do not wait for it. */
  ordered?: boolean;
}

export interface Reply<T = unknown> {
  body: T;
  contentType: string;
  /** The message's number in its session. */
  seq: number;
  /** After the message. */
  position: string;
  plugin: string;
  /** An earlier attempt was applied: this is its reply. */
  replayed: boolean;
  idempotencyKey: string;
}

export interface PastOptions {
  /** As the session was behind the message of this number. */
  at?: number;
}

export interface ForkOptions extends Call, PastOptions {
  /** The number of the deployment to stay on. */
  deployment?: number;
}

export interface HistoryOptions extends Call {
  /** A position or number; from the beginning without it. */
  after?: string | number;
  /** Entries in all. */
  limit?: number;
}

/** An entry of the history: a message with its reply and events, mostly. */
export interface Entry {
  seq: number;
  id?: string;
  sender?: string;
  /** What it comes from, if not from a client: see docs/http-api.md. */
  origin?: string;
  timeMs: number;
  plugin: string;
  contentType: string;
  body: any;
  replyContentType: string;
  reply: any;
  events: Omit<SlotdEvent<any>, "position">[];
  [more: string]: unknown;
}

export interface Description {
  service: string;
  session: string;
  slot: number;
  seq: number;
  createdMs: number;
  updatedMs: number;
  plugin: string;
  stateKeys: number;
  stateBytes: number;
  closed?: boolean;
  position?: string;
  /** The session that it was forked off, and the last message that it has of that. */
  forked?: { session: string; at: number };
  pinned?: { against: string; reason: string };
}

export interface SessionOptions {
  /** Where the events begin: a saved `position`, or `"0"`, the beginning. Without it, with what comes from now on. */
  after?: string;
}

/** What sessions share. */
export interface Shared {
  http: Http;
  feed: FeedOptions;
  sender: string | undefined;
  /** Takes room for a message that waits; returns what gives it back. */
  reserve(bytes: number): () => void;
  /** Tells of an error that nobody waits for. */
  report(error: unknown): void;
  /** What `close` ends. */
  active: Set<{ close(): void }>;
}

type Listener<T> = (value: T) => unknown;

/** Functions by kind; `*` for all. One that throws, or rejects, does not keep the others from being called. */
class Listeners<T extends { kind: string }> {
  readonly #all = new Set<[string, Listener<T>]>();
  constructor(readonly report: (error: unknown) => void) {}
  get size(): number {
    return this.#all.size;
  }
  add(kind: string, listener: Listener<T>): () => void {
    const entry: [string, Listener<T>] = [kind, listener];
    this.#all.add(entry);
    return () => this.#all.delete(entry);
  }
  clear(): void {
    this.#all.clear();
  }
  call(value: T): void {
    for (const entry of [...this.#all]) {
      const [kind, listener] = entry;
      if ((kind !== "*" && kind !== value.kind) || !this.#all.has(entry)) continue;
      try {
        // An async function's rejection is nobody else's.
        (listener(value) as PromiseLike<unknown> | undefined)?.then?.(undefined, this.report);
      } catch (error) {
        this.report(error);
      }
    }
  }
}

const HISTORY_PAGE = 200;

/** Made by `session()` of a client. */
export class Session<T extends Types = any> {
  readonly #path: string;
  readonly #feed: Feed;
  readonly #events: Listeners<SlotdEvent<any>>;
  readonly #notifications: Listeners<Notification<any>>;
  readonly #statuses: Listeners<{ kind: string }>;
  readonly #deletions: Listeners<{ kind: string }>;
  /** Decided, or given up, once everything before it is. */
  #tail: Promise<unknown> = Promise.resolve();
  /** Of what is being sent: `close` ends it. (One signal for all would have a listener for each, which Node.js warns of.) */
  readonly #sending = new Set<Limit>();

  constructor(
    readonly shared: Shared,
    readonly service: string,
    readonly id: string,
    { after }: SessionOptions = {},
  ) {
    this.#path = `/v1/services/${encodeURIComponent(service)}/sessions/${encodeURIComponent(id)}`;
    const { report } = shared;
    this.#events = new Listeners(report);
    this.#notifications = new Listeners(report);
    this.#statuses = new Listeners(report);
    this.#deletions = new Listeners(report);
    const nothing = { kind: "" };
    this.#feed = new Feed(shared.http, this.#path, shared.feed, {
      event: (event) => this.#events.call(event),
      notification: (notification) => this.#notifications.call(notification),
      deleted: () => this.#deletions.call(nothing),
      status: () => this.#statuses.call(nothing),
    }, after);
  }

  // --- Messages

  /**
   * Sends a message until it is decided: applied (once, thanks to its key), refused, or `undecided` at the deadline. Messages of
   * one session are sent one after the other, in the order of the calls.
   */
  async send(message: Of<T, "message">, options: SendOptions = {}): Promise<Reply<Of<T, "reply">>> {
    const { bytes, headers } = this.#content(message, options);
    const idempotencyKey = options.idempotencyKey ?? newKey();
    headers["idempotency-key"] = idempotencyKey;
    const release = this.shared.reserve(bytes.length);
    const end = this.#begin(options.deadline ?? this.shared.http.options.deadline, options.signal);
    const since = Date.now();
    const before = this.#tail;
    let done!: () => void;
    if (options.ordered !== false) {
      const own = new Promise<void>((resolve) => (done = resolve));
      // After one that was given up while it waited, those before it are still to come.
      this.#tail = Promise.all([before, own]);
    }
    try {
      if (options.ordered !== false) {
        await race(before, end.signal).catch((error) => {
          throw end.late ? new SlotdError("not-sent", "the deadline has passed", { retriable: true }) : error;
        });
      }
      const deadline = (options.deadline ?? this.shared.http.options.deadline) - (Date.now() - since);
      const init = { method: "POST", headers, body: bytes };
      // From here on the time is the call's.
      end.restart(Infinity);
      const answer = await this.#call("/messages", init, { signal: end.signal, deadline });
      const header = (name: string) => answer.headers.get(`slotd-${name}`) ?? "";
      return {
        ...this.#read<Of<T, "reply">>(answer),
        seq: Number(header("seq")),
        position: header("position"),
        plugin: header("plugin"),
        replayed: header("replayed") === "true",
        idempotencyKey,
      };
    } catch (error) {
      if (error instanceof SlotdError) error.idempotencyKey = idempotencyKey;
      throw error;
    } finally {
      this.#end(end);
      release();
      done?.();
    }
  }

  /** Asks the session, which does not change it. */
  async query(query: Of<T, "query">, options: Call & BodyOptions & PastOptions = {}): Promise<Of<T, "answer">> {
    const { bytes, headers } = this.#content(query, options);
    const init = { method: "POST", headers, body: bytes };
    return this.#read<Of<T, "answer">>(await this.#call("/query" + past(options), init, options)).body;
  }

  /** An ephemeral event, to whoever listens now. The service has to allow it. */
  async notify<K extends Kinds<T, "notifications">>(
    kind: K,
    body: Body<T, "notifications", K> | null = null,
    options: Call & BodyOptions = {},
  ): Promise<void> {
    const { bytes, headers } = this.#content(body, options);
    const end = this.#begin(options.deadline ?? this.shared.http.options.attemptTimeout, options.signal);
    try {
      // Late it would be wrong: once, and no queue.
      const path = `${this.#path}/notify?kind=${encodeURIComponent(kind)}`;
      await this.shared.http.once(path, { method: "POST", headers, body: bytes }, end, async (r) => r.arrayBuffer());
    } finally {
      this.#end(end);
    }
  }

  /** The entries from `after` on, to the end that the history has by then. */
  async *history({ after = "0", limit = Infinity, ...call }: HistoryOptions = {}): AsyncGenerator<Entry, void, undefined> {
    for (let left = limit; left > 0; ) {
      const query = new URLSearchParams({ after: `${after}`, limit: `${Math.min(left, HISTORY_PAGE)}` });
      const { bytes } = await this.#call(`/messages?${query}`, {}, call);
      const page = decode(bytes, "application/json") as { entries: object[]; position: string; next_after?: number };
      for (const entry of page.entries.slice(0, left)) {
        const read = shaped<Entry>(entry);
        read.events = read.events.map((event) => shaped(event));
        yield read;
      }
      if (page.next_after === undefined) return;
      left -= page.entries.length;
      after = page.position;
    }
  }

  async describe(call: Call & PastOptions = {}): Promise<Description> {
    const { bytes } = await this.#call(past(call), {}, call);
    return shaped<Description>(decode(bytes, "application/json") as object);
  }

  /**
   * A new session with the history of this one up to the message `at`, or all of it, and its state there; it goes on by itself.
   * Repeated, it does nothing more. Without `at`, it is repeated here only while this session has no new messages.
   */
  async fork(to: string, { at, deployment, ...call }: ForkOptions = {}): Promise<Session<T>> {
    const { bytes, headers } = this.#content({ to, at, deployment }, {});
    await this.#call("/fork", { method: "POST", headers, body: bytes }, call);
    return new Session(this.shared, this.service, to);
  }

  /** Deletes the session with its state and history. One that is not there is no error. */
  async delete(call: Call = {}): Promise<void> {
    await this.#call("", { method: "DELETE" }, call).catch((error) => {
      if (error?.code !== "session-not-found") throw error;
    });
  }

  // --- Events

  /**
   * Calls `listener` for each event of a kind (`*`: of every kind), in order, once. The first listener opens the connection, for all
   * of them; the last one that goes closes it. Returns what removes this one.
   */
  on<K extends Kinds<T, "events">>(
    kind: K | "*",
    listener: (event: SlotdEvent<Body<T, "events", K>>) => unknown,
    options?: { signal?: AbortSignal },
  ): () => void {
    return this.#listen(this.#events, kind, listener, options);
  }

  /** The same for ephemeral events. */
  onNotify<K extends Kinds<T, "notifications">>(
    kind: K | "*",
    listener: (notification: Notification<Body<T, "notifications", K>>) => unknown,
    options?: { signal?: AbortSignal },
  ): () => void {
    return this.#listen(this.#notifications, kind, listener, options);
  }

  /** The session was deleted. Events go on with the next one of its name. Opens no connection. */
  onDeleted(listener: () => unknown): () => void {
    return this.#deletions.add("", listener);
  }

  /** Each change of `status` and `reason`. Opens no connection. */
  onStatus(listener: (status: Status, reason: SlotdError | undefined) => unknown): () => void {
    return this.#statuses.add("", () => listener(this.status, this.reason));
  }

  /** Of the connection for events. */
  get status(): Status {
    return this.#feed.status;
  }

  /** Why it is not open, or has failed. */
  get reason(): SlotdError | undefined {
    return this.#feed.reason;
  }

  /** After the last event that was given to the listeners: save it, and begin there with the option `after`. */
  get position(): string | undefined {
    return this.#feed.position;
  }

  /** Removes all listeners, and gives up messages that wait (`closed`). It can be used again. */
  close(): void {
    for (const listeners of [this.#events, this.#notifications, this.#deletions]) listeners.clear();
    for (const end of this.#sending) end.abort(new SlotdError("closed", "the session was closed"));
    this.#feed.stop();
    this.#statuses.clear();
    this.shared.active.delete(this);
  }

  // ---

  #listen<V extends { kind: string }>(to: Listeners<V>, kind: string, listener: Listener<any>, { signal }: { signal?: AbortSignal } = {}): () => void {
    if (signal?.aborted) return () => {};
    const remove = to.add(kind, listener);
    const off = () => {
      signal?.removeEventListener("abort", off);
      remove();
      if (this.#events.size + this.#notifications.size > 0) return;
      this.#feed.stop();
      this.#rest();
    };
    signal?.addEventListener("abort", off);
    this.shared.active.add(this);
    this.#feed.start();
    return off;
  }

  #begin(ms: number, signal: AbortSignal | undefined): Limit {
    const end = new Limit(ms, signal);
    this.#sending.add(end);
    this.shared.active.add(this);
    return end;
  }

  #end(end: Limit): void {
    end.end();
    this.#sending.delete(end);
    this.#rest();
  }

  /** It is held only while it does something. */
  #rest(): void {
    if (this.#events.size + this.#notifications.size + this.#sending.size === 0) this.shared.active.delete(this);
  }

  #content(body: unknown, { contentType, sender = this.shared.sender }: BodyOptions) {
    const content = encode(body, contentType);
    const headers: Record<string, string> = { "content-type": content.contentType };
    if (sender !== undefined) headers["slotd-sender"] = sender;
    return { bytes: content.bytes, headers };
  }

  #call(path: string, init: RequestInit, call: Call): Promise<Answer> {
    return this.shared.http.call(this.#path + path, init, call);
  }

  #read<B>({ headers, bytes }: Answer): { body: B; contentType: string } {
    const contentType = headers.get("content-type") ?? "";
    return { body: decode(bytes, contentType) as B, contentType };
  }
}

const past = ({ at }: PastOptions) => (at === undefined ? "" : `?at=${at}`);

/** Also where a page has no `randomUUID`, as on plain HTTP. */
function newKey(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
