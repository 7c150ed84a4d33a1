// A client of slotd: `connect` to it, then talk to its sessions.

import { SlotdError } from "./errors.js";
import { Http } from "./http.js";
import { Session, type SessionOptions, type Shared, type Types } from "./session.js";
import { type TokenSource, Tokens } from "./token.js";
import type { Backoff } from "./wait.js";

export { SlotdError } from "./errors.js";
export type { ClientCode, Code, Rejection } from "./errors.js";
export type { ServerCode } from "./codes.js";
export type { Notification, SlotdEvent, Status } from "./feed.js";
export type { Call } from "./http.js";
export type { Token, TokenSource } from "./token.js";
export type { BodyOptions, Description, Entry, ForkOptions, HistoryOptions, PastOptions, Reply, SendOptions, SessionOptions, Types } from "./session.js";
export { Session } from "./session.js";

export interface ClientOptions {
  /** A token, or a function that gives one, and is asked again before it ends. */
  token?: TokenSource;
  /** The sender of messages. */
  sender?: string;
  /**
   * How events come: `websocket`; `sse`, server-sent events over `fetch`; `auto` (the default), a WebSocket where there are any and
   * they get through, else `sse`.
   */
  transport?: "websocket" | "sse" | "auto";
  /** Milliseconds until a call is given up, if it does not say so itself: 60,000. `Infinity` waits as long as it takes. */
  deadline?: number;
  /** Milliseconds until an attempt is taken for lost, and another one made: 20,000, more than slotd takes to answer. */
  attemptTimeout?: number;
  /** Pauses between attempts, of connections too: anything up to 200 ms, doubled each time up to 10 s. */
  backoff?: Partial<Backoff>;
  /** Messages that may wait to be sent or decided, of all sessions together: 1,000 with 8 MiB. More are refused with `queue-full`. */
  queue?: { messages?: number; bytes?: number };
  /** Milliseconds after which a WebSocket that is silent is asked whether it is still there, and then taken for dead: 25,000. */
  heartbeat?: number;
  /** Told of what a listener throws. Without it, `reportError` or the console is. */
  onError?: (error: unknown) => void;
  /** Instead of the global ones. */
  fetch?: typeof fetch;
  WebSocket?: typeof WebSocket;
}

const BACKOFF: Backoff = { base: 200, max: 10_000 };
const QUEUE = { messages: 1_000, bytes: 8 * 1024 * 1024 };

export class Client {
  readonly #shared: Shared;

  constructor(url: string | URL, options: ClientOptions = {}) {
    // In a page, a path is of its own origin.
    const { href } = new URL(url, globalThis.location?.href);
    const http = new Http(href.replace(/[?#].*/, "").replace(/\/+$/, ""), new Tokens(options.token), {
      // Browsers insist on their own `this`.
      fetch: options.fetch ?? ((...args) => globalThis.fetch(...args)),
      backoff: { ...BACKOFF, ...options.backoff },
      attemptTimeout: options.attemptTimeout ?? 20_000,
      deadline: options.deadline ?? 60_000,
    });
    const queue = { ...QUEUE, ...options.queue };
    const tell = options.onError ?? globalThis.reportError?.bind(globalThis) ?? console.error;
    let [messages, bytes] = [0, 0];
    this.#shared = {
      http,
      feed: {
        transport: options.transport ?? "auto",
        WebSocket: options.WebSocket ?? globalThis.WebSocket,
        heartbeat: options.heartbeat ?? 25_000,
      },
      sender: options.sender,
      reserve(length) {
        if (messages >= queue.messages || bytes + length > queue.bytes) {
          throw new SlotdError("queue-full", `${messages} messages with ${bytes} bytes wait already`, { retriable: true });
        }
        messages++;
        bytes += length;
        return () => {
          messages--;
          bytes -= length;
        };
      },
      report(error) {
        try {
          tell(error);
        } catch {
          // There is nobody left to tell.
        }
      },
      active: new Set(),
    };
    if (this.#shared.feed.transport === "websocket" && !this.#shared.feed.WebSocket) {
      throw new TypeError("there is no WebSocket here: give one as the option WebSocket, or use the transport sse");
    }
  }

  /** A session. Its listeners share a connection: make one and hand it on, rather than one a component. */
  session<T extends Types = any>(service: string, id: string, options?: SessionOptions): Session<T> {
    return new Session<T>(this.#shared, service, id, options);
  }

  /** Closes the connections of all sessions, and gives up messages that wait. */
  close(): void {
    for (const session of [...this.#shared.active]) session.close();
  }
}

export const connect = (url: string | URL, options?: ClientOptions): Client => new Client(url, options);
