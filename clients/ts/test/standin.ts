// A small stand-in for a server, for what a real one does not do when told: the conformance suite has the rest.

import { connect, type ClientOptions } from "../src/index.js";

type Asked = { method: string; url: URL; headers: Record<string, string>; body: string };
type Answering = (asked: Asked, number: number) => Response | Promise<Response>;

export const problem = (status: number, code: string, more: object = {}, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify({ code, status, detail: code, retriable: status >= 500, ...more }), {
    status,
    headers: { "content-type": "application/problem+json", ...headers },
  });

export const json = (value: unknown, headers: Record<string, string> = {}): Response =>
  new Response(JSON.stringify(value), { headers: { "content-type": "application/json", ...headers } });

/** An event stream of these lines, which stays open. */
export const stream = (text: string, isOpen = true): Response =>
  new Response(
    new ReadableStream({
      start(controller) {
        controller.enqueue(new TextEncoder().encode(text));
        if (!isOpen) controller.close();
      },
    }),
    { headers: { "content-type": "text/event-stream" } },
  );

/** A `fetch` that a function answers. Like the real one it ends with its signal. */
export function answering(answer: Answering): { fetch: typeof fetch; asked: Asked[] } {
  const asked: Asked[] = [];
  const fetch = async (input: string | URL | Request, init: RequestInit = {}): Promise<Response> => {
    const now: Asked = {
      method: init.method ?? "GET",
      url: new URL(`${input}`),
      headers: (init.headers ?? {}) as Record<string, string>,
      body: init.body ? new TextDecoder().decode(init.body as Uint8Array) : "",
    };
    asked.push(now);
    const { signal } = init;
    const ended = new Promise<never>((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
    return Promise.race([ended, Promise.resolve(answer(now, asked.length))]);
  };
  return { fetch, asked };
}

export class StandInSocket {
  static all: StandInSocket[] = [];
  /** What happens to a new one. */
  static opening: (socket: StandInSocket) => void = (socket) => socket.open();
  readyState = 0;
  sent: any[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  onerror: (() => void) | null = null;
  readonly url: URL;

  constructor(url: string) {
    this.url = new URL(url);
    StandInSocket.all.push(this);
    queueMicrotask(() => StandInSocket.opening(this));
  }
  open(): void {
    this.readyState = 1;
    this.onopen?.();
  }
  send(text: string): void {
    this.sent.push(JSON.parse(text));
  }
  /** As the server. */
  say(frame: object): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
  end(code: number, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
  close(): void {
    this.readyState = 3;
  }
  event(seq: number, index = 0, kind = "line"): void {
    this.say({ type: "event", seq, index, position: `${seq}.${index}-aa`, kind, time_ms: 1, content_type: "application/json", body: seq });
  }
}

export function standIn(answer: Answering, options: ClientOptions = {}) {
  StandInSocket.all = [];
  StandInSocket.opening = (socket) => socket.open();
  const { fetch, asked } = answering(answer);
  const client = connect("http://node.test/base/", {
    fetch,
    WebSocket: StandInSocket as unknown as typeof WebSocket,
    backoff: { base: 1, max: 4 },
    onError: () => {},
    ...options,
  });
  return { client, asked, sockets: StandInSocket.all };
}

/** Waits for a condition, and says what it was if it does not come. */
export async function until<T>(what: string, condition: () => T | undefined | false): Promise<T> {
  const end = Date.now() + 5_000;
  for (;;) {
    const value = condition();
    if (value !== undefined && value !== false) return value;
    if (Date.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** A JWT that nobody signed. */
export const jwt = (claims: object): string =>
  ["{}", JSON.stringify(claims), "x"].map((part) => Buffer.from(part).toString("base64url")).join(".");
