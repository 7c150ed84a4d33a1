// Requests: one attempt, and attempts until there is an answer.

import { type Code, type Problem, SlotdError, ofProblem, unreachable } from "./errors.js";
import type { Tokens } from "./token.js";
import { type Backoff, Limit, isOffline, jitter, pause, race } from "./wait.js";

export interface Call {
  /** Ends it; the message may have been applied then. */
  signal?: AbortSignal | undefined;
  /** Milliseconds until it is given up, `Infinity`: never. */
  deadline?: number | undefined;
}

export interface Answer {
  headers: Headers;
  bytes: Uint8Array;
}

export interface HttpOptions {
  fetch: typeof fetch;
  backoff: Backoff;
  attemptTimeout: number;
  deadline: number;
}

/** Where an earlier attempt may have been applied, these still say what became of the message: it was looked up by its key. */
const DECISIVE = new Set<Code>([
  "rejected",
  "idempotency-conflict",
  "session-closed",
  "quota-exceeded",
  "plugin-trapped",
  "plugin-limit",
  "plugin-deadline",
  "send-refused",
  "request-refused",
]);

/** A proxy's answers that may be others later. */
const PASSING = [408, 425, 429];
const RETRY_AFTER_MS_MAX = 60_000;

export class Http {
  constructor(
    readonly base: string,
    readonly tokens: Tokens,
    readonly options: HttpOptions,
  ) {}

  /** One attempt, and another one with a new token if that is what is wrong. `read` is limited by `limit` too. */
  async once<T>(path: string, init: RequestInit, limit: Limit, read: (response: Response) => Promise<T>): Promise<T> {
    let refused: string | undefined;
    for (;;) {
      const token = await race(this.tokens.get(refused), limit.signal).catch(rethrow(limit));
      const headers = { ...(init.headers as Record<string, string>), ...(token && { authorization: `Bearer ${token}` }) };
      const answer = async () => {
        limit.isAsked = true;
        const response = await this.options.fetch(this.base + path, { ...init, headers, signal: limit.signal });
        if (response.ok) return read(response);
        throw problemOf(response, await response.text());
      };
      try {
        return await race(answer(), limit.signal);
      } catch (error) {
        if (error instanceof SlotdError && error.status === 401 && this.tokens.canRenew && refused === undefined) {
          refused = token ?? "";
          continue;
        }
        return rethrow(limit)(error);
      }
    }
  }

  /** Attempts until there is an answer that no repetition changes. */
  async call(path: string, init: RequestInit, call: Call = {}): Promise<Answer> {
    const { backoff, attemptTimeout } = this.options;
    const end = new Limit(call.deadline ?? this.options.deadline, call.signal);
    let maybe = false;
    let last: SlotdError | undefined;
    try {
      for (let failures = 0; ; failures++) {
        if (isOffline()) await pause(0, end.signal);
        const attempt = new Limit(attemptTimeout, end.signal);
        const read = async (response: Response) => ({
          headers: response.headers,
          bytes: new Uint8Array(await response.arrayBuffer()),
        });
        try {
          return await this.once(path, init, attempt, read);
        } catch (error) {
          // Without an answer of slotd's, the message may have arrived.
          if (attempt.isAsked && (!(error instanceof SlotdError) || isUnclear(error))) maybe = true;
          if (end.signal.aborted || !(error instanceof SlotdError)) throw error;
          last = error;
          // A rejection is the handler's decision, whatever it says of later.
          if (!error.retriable || error.code === "rejected") {
            if (maybe && !DECISIVE.has(error.code)) break;
            throw error;
          }
        } finally {
          attempt.end();
        }
        await pause(Math.min(last.retryAfter ?? 0, RETRY_AFTER_MS_MAX) + jitter(failures, backoff), end.signal);
      }
    } catch (error) {
      if (!end.late) throw error;
    } finally {
      end.end();
    }
    const [code, what]: [Code, string] = maybe
      ? ["undecided", "it is not known what became of it"]
      : ["not-sent", "the deadline has passed"];
    throw new SlotdError(code, `${what}: ${last?.message ?? "no answer"}`, { retriable: true }, last);
  }
}

const isUnclear = ({ code, status }: SlotdError): boolean =>
  code === "unreachable" || code === "outcome-unknown" || (code === "bad-answer" && status >= 500);

/** What the caller's signal says stays as it is; all else is an error of this library. */
const rethrow = (limit: Limit) => (error: unknown): never => {
  if (error instanceof SlotdError || (limit.signal.aborted && !limit.late)) throw error;
  throw unreachable(limit.late ? "no answer in time" : `no answer: ${error}`, error);
};

function problemOf(response: Response, text: string): SlotdError {
  const { status } = response;
  let problem: Problem | undefined;
  try {
    problem = JSON.parse(text) as Problem;
  } catch {
    // A proxy's page.
  }
  const after = response.headers.get("retry-after");
  const wait = after === null ? undefined : Number.isNaN(+after) ? Date.parse(after) - Date.now() : +after * 1000;
  const retry_after_ms = wait! >= 0 ? wait! : null;
  if (typeof problem?.code === "string") return ofProblem({ ...problem, status, retry_after_ms });
  const retriable = status >= 500 || PASSING.includes(status);
  return new SlotdError("bad-answer", `HTTP status ${status}`, { status, retriable, retry_after_ms });
}
