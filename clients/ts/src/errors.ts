// What can go wrong: slotd's own problems by their codes, and a few of the client's.

import type { ServerCode } from "./codes.js";

/** Codes that this library makes. */
export type ClientCode =
  /** The deadline passed, or the last answer does not say: the message may have been applied. The same key finds out. */
  | "undecided"
  /** The deadline passed, and no attempt has reached a node: the message was not applied. */
  | "not-sent"
  /** Too many messages wait to be sent. This one was not taken. */
  | "queue-full"
  /** No answer: no network, no node, or a time limit. */
  | "unreachable"
  /** An answer that is not slotd's: of a proxy, mostly. */
  | "bad-answer"
  /** The function that gives tokens failed. */
  | "token-unavailable"
  /** `close` was called. */
  | "closed";

/** Servers may have new codes. */
export type Code = ServerCode | ClientCode | (string & {});

/** A handler's own error. */
export interface Rejection {
  code: string;
  message: string;
  retriable: boolean;
}

/** Where an error's fields come from: a problem of HTTP, or an `error` frame. */
export interface Problem {
  code?: string;
  detail?: string;
  status?: number;
  retriable?: boolean;
  plugin?: string;
  rejection?: Rejection;
  retry_after_ms?: number | null;
}

export class SlotdError extends Error {
  override readonly name = "SlotdError";
  readonly code: Code;
  /** Of HTTP; 0 for an error of this library. */
  readonly status: number;
  /** Whether the same call may succeed later, unchanged. */
  readonly retriable: boolean;
  /** The handler's own error, with the code `rejected`. */
  readonly rejection: Rejection | undefined;
  /** The version of the plugin at fault. */
  readonly plugin: string | undefined;
  /** How long the server asks to wait, in milliseconds. */
  readonly retryAfter: number | undefined;
  /** The idempotency key of the message: to send it again, once. */
  idempotencyKey: string | undefined;

  constructor(code: Code, message: string, problem: Problem = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.status = problem.status ?? 0;
    this.retriable = problem.retriable ?? false;
    this.rejection = problem.rejection;
    this.plugin = problem.plugin;
    this.retryAfter = problem.retry_after_ms ?? undefined;
  }
}

export const ofProblem = (problem: Problem): SlotdError =>
  new SlotdError(
    problem.code ?? "bad-answer",
    problem.rejection?.message ?? problem.detail ?? "the server gave no reason",
    problem,
  );

export const unreachable = (why: string, cause?: unknown): SlotdError =>
  new SlotdError("unreachable", why, { retriable: true }, cause);
