// A session's events over one connection at a time, without gap or repeat: from where the last connection ended.

import { shaped } from "./body.js";
import { type Problem, SlotdError, ofProblem, unreachable } from "./errors.js";
import type { Http } from "./http.js";
import { type ServerSent, parser } from "./sse.js";
import { Limit, isOffline, jitter, onOnline, pause, race } from "./wait.js";

/** An event of a session's handler. */
export interface SlotdEvent<T = unknown> {
  kind: string;
  /** The message that it belongs to. */
  seq: number;
  /** Which of its events it is, from 0. */
  index: number;
  /** Where to go on after it. */
  position: string;
  timeMs: number;
  contentType: string;
  body: T;
}

/** An ephemeral event, which is kept nowhere. */
export interface Notification<T = unknown> {
  kind: string;
  origin: "handler" | "client";
  sender?: string;
  timeMs: number;
  contentType: string;
  body: T;
}

/**
 * - `closed`: nobody listens, or it has failed for good (`reason`)
 * - `connecting`: for the first time
 * - `retrying`: the connection was lost (`reason`), and is tried again
 */
export type Status = "connecting" | "open" | "retrying" | "closed";

export interface FeedOptions {
  transport: "websocket" | "sse" | "auto";
  WebSocket: typeof WebSocket | undefined;
  /** A silent WebSocket is asked after so many milliseconds whether it is still there. */
  heartbeat: number;
}

export interface Sink {
  event(event: SlotdEvent): void;
  notification(notification: Notification): void;
  deleted(): void;
  status(): void;
}

/** How a connection ended. */
interface End {
  /** It was open before. */
  wasOpen?: boolean;
  /** A WebSocket's close code. */
  code?: number;
  error?: SlotdError | undefined;
  /** The session was deleted. */
  deleted?: boolean;
}

export const START = "0";

/** A connection that stayed so long was a good one: the next failure is the first again. */
const STEADY_MS = 10_000;
/** An event stream's server says something every 15 s. */
const STREAM_SILENCE_MS = 45_000;
/** Where sockets failed so often and streams did not, something in between does not let them through. */
const SOCKET_FAILURES_MAX = 3;
const RESTART = 1012;
const EXPIRED = 4401;
const FORBIDDEN = 4403;

export class Feed {
  /** After the last event that was given to the listeners. */
  position: string | undefined;
  status: Status = "closed";
  reason: SlotdError | undefined;
  /** The last event, a second guard against repeats. */
  #last: [number, number] = [0, -1];
  #running: AbortController | undefined;
  #failures = 0;
  #socketFailures = 0;
  /** The last connection's socket failed before it was open. */
  #trySse = false;

  constructor(
    readonly http: Http,
    readonly path: string,
    readonly options: FeedOptions,
    readonly sink: Sink,
    after: string | undefined,
  ) {
    this.position = after;
  }

  start(): void {
    if (this.#running) return;
    const running = (this.#running = new AbortController());
    this.#set("connecting");
    this.#run(running.signal).then(
      () => this.#stopped(running, undefined),
      (error) => this.#stopped(running, error),
    );
  }

  stop(): void {
    const running = this.#running;
    this.#running = undefined;
    running?.abort(new SlotdError("closed", "nobody listens"));
    this.#set("closed");
  }

  #stopped(running: AbortController, error: unknown): void {
    // A feed that was stopped may have been started again.
    if (this.#running !== running) return;
    this.#running = undefined;
    this.#set("closed", error instanceof SlotdError ? error : new SlotdError("closed", `${error}`, {}, error));
  }

  #set(status: Status, reason?: SlotdError): void {
    if (status === this.status && reason === this.reason) return;
    this.status = status;
    this.reason = reason;
    this.sink.status();
  }

  /** Connections, one after the other. Throws what can't be mended by another one. */
  async #run(signal: AbortSignal): Promise<void> {
    this.#failures = 0;
    while (!signal.aborted) {
      const since = Date.now();
      const end = await this.#connection(signal).catch((error): End => {
        if (signal.aborted || !(error instanceof SlotdError)) throw error;
        return { error };
      });
      if (signal.aborted) return;
      if (end.error && !end.error.retriable) throw end.error;
      if (end.deleted) {
        // The next session of that name begins at its beginning.
        this.position = START;
        this.#last = [0, -1];
        this.sink.deleted();
      }
      if (signal.aborted) return;
      if (end.wasOpen && Date.now() - since > STEADY_MS) this.#failures = 0;
      this.#set("retrying", end.error ?? unreachable(`the connection has ended${end.code ? ` (${end.code})` : ""}`));
      // Another node is there, or the session's next one; but not again and again.
      const isSoon = end.code === RESTART || end.code === EXPIRED || end.deleted;
      const wait = isSoon && this.#failures === 0 ? 0 : jitter(this.#failures, this.http.options.backoff);
      if (wait > 0 || isOffline()) await pause(Math.max(wait, Math.min(end.error?.retryAfter ?? 0, 60_000)), signal);
      this.#failures++;
    }
  }

  async #connection(signal: AbortSignal): Promise<End> {
    this.position ??= await this.#here(signal);
    const { transport, WebSocket } = this.options;
    const useSocket = WebSocket && (transport === "websocket" || (transport === "auto" && !this.#trySse));
    if (!useSocket) {
      const end = await this.#stream(signal, true);
      this.#trySse = this.#socketFailures >= SOCKET_FAILURES_MAX;
      return end;
    }
    const end = await this.#socket(WebSocket, signal);
    if (end.wasOpen) {
      this.#socketFailures = 0;
      return end;
    }
    // A browser does not say why it was refused. The other route does, and may work where sockets do not.
    if (transport === "websocket") return { error: end.error, ...(await this.#stream(signal, false)) };
    const stream = await this.#stream(signal, true, () => this.#socketFailures++);
    this.#trySse = this.#socketFailures >= SOCKET_FAILURES_MAX;
    return stream;
  }

  /** Where the session is now, so that nothing is missed if the first connection breaks before its first event. */
  async #here(signal: AbortSignal): Promise<string | undefined> {
    const limit = new Limit(this.http.options.attemptTimeout, signal);
    try {
      return await this.http.once(this.path, {}, limit, async (response) => {
        const { position } = (await response.json()) as { position?: string };
        return position;
      });
    } catch (error) {
      if (error instanceof SlotdError && error.code === "session-not-found") return START;
      // It may listen, and not read: then it begins with what comes.
      if (error instanceof SlotdError && error.code === "forbidden") return undefined;
      throw error;
    } finally {
      limit.end();
    }
  }

  #query(token?: string): string {
    const query = new URLSearchParams();
    if (this.position !== undefined) query.set("after", this.position);
    if (token) query.set("access_token", token);
    const text = `${query}`;
    return text && `?${text}`;
  }

  #opened(): void {
    this.#set("open");
  }

  /** Everything that a server says, on either kind of connection. Returns how it ends the connection, if it does. */
  #frame(frame: { type: string; [name: string]: unknown }): End | undefined {
    switch (frame.type) {
      case "event": {
        const event = shaped<SlotdEvent & { type?: string }>(frame);
        delete event.type;
        const [seq, index] = this.#last;
        if (event.seq < seq || (event.seq === seq && event.index <= index)) return;
        this.#last = [event.seq, event.index];
        this.position = event.position;
        this.#failures = 0;
        this.sink.event(event);
        return;
      }
      case "notify": {
        const notification = shaped<Notification & { type?: string; ephemeral?: boolean }>(frame);
        delete notification.type;
        delete notification.ephemeral;
        this.sink.notification(notification);
        return;
      }
      case "gap":
        // The reader was too slow. Not again at once.
        if (typeof frame.after === "string") this.position = frame.after;
        return { code: 1013 };
      case "deleted":
        return { deleted: true };
      default:
        // Later servers may say more.
        return;
    }
  }

  // --- WebSocket

  async #socket(Socket: typeof WebSocket, signal: AbortSignal): Promise<End> {
    const { tokens } = this.http;
    let used = await race(tokens.get(), signal);
    const url = `${this.http.base.replace(/^http/, "ws")}${this.path}/socket${this.#query(used)}`;
    const end = await new Promise<End>((resolve) => {
      const socket = new Socket(url);
      const found: End = {};
      let timer: ReturnType<typeof setTimeout> | undefined;
      let renewal: ReturnType<typeof setTimeout> | undefined;
      let authenticating: string | undefined;
      let isDone = false;
      const finish = (end: End) => {
        isDone = true;
        clearTimeout(timer);
        clearTimeout(renewal);
        offOnline();
        signal.removeEventListener("abort", abort);
        socket.onopen = socket.onmessage = socket.onerror = socket.onclose = null;
        // A dead connection's closing would be waited for.
        try {
          socket.close();
        } catch {
          // It was not open yet, in some implementations.
        }
        resolve({ ...found, ...end });
      };
      const abort = () => finish({});
      const late = (ms: number, then: () => void) => {
        clearTimeout(timer);
        timer = setTimeout(then, ms);
      };
      const ask = () => {
        socket.send(`{"type":"ping","id":"ping"}`);
        // As long again: a large frame may be on its way.
        late(this.options.heartbeat, () => finish({ error: unreachable("the connection is silent") }));
      };
      const heard = () => late(this.options.heartbeat, ask);
      // After a pause of the machine, or another network, the connection may be dead.
      const offOnline = onOnline(() => found.wasOpen && ask());
      const renewLater = () => {
        clearTimeout(renewal);
        const wait = tokens.renewAt - Date.now();
        if (!isDone && used !== undefined && wait < 2 ** 31) renewal = setTimeout(renew, Math.max(wait, 0));
      };
      const renew = () => {
        tokens.get().then(
          (next) => {
            if (!isDone && next !== undefined && next !== used) {
              authenticating = next;
              socket.send(JSON.stringify({ type: "auth", token: next }));
            }
            renewLater();
          },
          // The old one is good until its end, and then the connection is made again.
          () => {
            if (!isDone) renewal = setTimeout(renew, 1000 + jitter(3, this.http.options.backoff));
          },
        );
      };
      socket.onopen = () => {
        found.wasOpen = true;
        heard();
        renewLater();
        this.#opened();
      };
      socket.onmessage = ({ data }) => {
        heard();
        const frame = parsed(data);
        if (!frame) return;
        if (frame.type === "error") {
          const { id } = frame;
          if (id === "ping") return;
          // Refused, as of another subject: a new connection may take it.
          if (authenticating !== undefined && !id) return finish({ code: EXPIRED });
          if (!id) found.error = ofProblem(frame as Problem);
          return;
        }
        if (frame.type === "auth") {
          used = authenticating ?? used;
          authenticating = undefined;
        }
        const end = this.#frame(frame);
        if (end) finish(end);
        // A listener may have ended it.
        else if (signal.aborted) finish({});
      };
      socket.onclose = ({ code, reason }) => {
        if (code === FORBIDDEN) found.error ??= new SlotdError("forbidden", reason || "no longer allowed", { status: 403 });
        finish({ code });
      };
      socket.onerror = () => {};
      signal.addEventListener("abort", abort);
      late(this.http.options.attemptTimeout, () => finish({ error: unreachable("no connection in time") }));
      if (signal.aborted) abort();
    });
    if (end.code === EXPIRED) {
      // The token of this connection has ended: another, or the end.
      const error = new SlotdError("token-expired", "the token has expired", { status: 401 });
      if (!tokens.canRenew) return { ...end, error };
      await race(tokens.get(used), signal);
      return { ...end, error: undefined };
    }
    return end;
  }

  // --- Server-sent events

  async #stream(signal: AbortSignal, follow: boolean, opened: () => void = () => {}): Promise<End> {
    const limit = new Limit(this.http.options.attemptTimeout, signal);
    try {
      const body = await this.http.once(`${this.path}/events${this.#query()}`, {}, limit, async (r) => r.body);
      if (!follow || !body) {
        await body?.cancel();
        return {};
      }
      opened();
      this.#opened();
      return { wasOpen: true, ...(await this.#read(body, limit)) };
    } finally {
      limit.end();
    }
  }

  async #read(body: ReadableStream<Uint8Array>, limit: Limit): Promise<End> {
    let end: End | undefined;
    const feed = parser((sent) => {
      if (!limit.signal.aborted) end ??= this.#sent(sent);
    });
    const reader = body.getReader();
    const decoder = new TextDecoder();
    try {
      while (!end && !limit.signal.aborted) {
        limit.restart(STREAM_SILENCE_MS);
        const { value, done } = await race(reader.read(), limit.signal);
        if (done) break;
        feed(decoder.decode(value, { stream: true }));
      }
    } catch (error) {
      return { error: unreachable(limit.late ? "the stream is silent" : "the stream broke", error) };
    } finally {
      reader.cancel().catch(() => {});
    }
    return end ?? {};
  }

  #sent({ id, event, data }: ServerSent): End | undefined {
    const frame = parsed(data);
    if (!frame) return;
    // Only a handler's events have one of these.
    if ("seq" in frame) return this.#frame({ ...frame, type: "event", position: id ?? this.position });
    if (frame.ephemeral) return this.#frame({ ...frame, type: "notify" });
    if (event === "slotd.error" || event === "error") {
      const error = ofProblem(frame as Problem);
      // With a new token it goes on.
      if (error.code === "token-expired" && this.http.tokens.canRenew) return { code: EXPIRED };
      return { error };
    }
    return this.#frame({ ...frame, type: event.replace("slotd.", "") });
  }
}

/** A JSON object, or nothing. */
function parsed(text: unknown): { type: string; [name: string]: unknown } | undefined {
  try {
    const value: unknown = JSON.parse(text as string);
    if (typeof value === "object" && value) return value as { type: string };
  } catch {
    // Not of this protocol.
  }
  return undefined;
}
