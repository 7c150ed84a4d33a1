// Types of chat.wasm. Made by `slotd plugin types`: make them again instead of changing them.

/** What a client sends. */
export interface Message {
  from?: string | null;
  kind: Kind;
  text: string;
  [key: string]: unknown;
}

/** The reply to a message. */
export interface Reply {
  n: number;
}

export type Query = {
  after?: string | null;
  limit?: number | null;
  query: "who";
} | {
  limit?: number | null;
  query: "top";
} | {
  limit?: number | null;
  query: "search";
  text?: string;
} | {
  query: "topic";
} | {
  query: "stats";
} | {
  limit?: number | null;
  of: string;
  query: "mentions";
};

export type Answer = {
  people: PersonEntry[];
  total: number;
} | {
  lines: Line[];
} | {
  topic: Topic | null;
} | Stats;

export interface LineEvent {
  at_ms: number;
  extra?: {
    [key: string]: unknown;
  };
  from?: string | null;
  kind: Kind;
  n: number;
  text: string;
}

export type Kind = "say" | "action" | "system" | "topic";

export interface PersonEntry {
  action: number;
  /** Numbers of the first and last line. */
  first: number;
  last: number;
  /** When the last line was, milliseconds since the Unix epoch. */
  last_ms: number;
  nick: string;
  say: number;
}

/** A line, as the ring and the answers have it. */
export interface Line {
  /** Milliseconds since the Unix epoch. */
  at_ms: number;
  from?: string | null;
  kind: Kind;
  /** Version 2: whom it mentions. */
  mentions?: string[];
  /** From 1. */
  n: number;
  text: string;
}

export interface Topic {
  at_ms: number;
  by?: string | null;
  text: string;
}

/** How much there is. */
export interface Stats {
  action: number;
  /** All lines so far: the last one's number. */
  lines: number;
  /** Who has spoken: said, acted, or set a topic. */
  people: number;
  say: number;
  system: number;
  topic: number;
  /** Lines that search and mentions look at, at most. */
  window: number;
}

export interface Events {
  line: LineEvent;
}

/** All of them: `slotd.session<Types>(service, session)`. */
export interface Types {
  message: Message;
  reply: Reply;
  query: Query;
  answer: Answer;
  events: Events;
}
