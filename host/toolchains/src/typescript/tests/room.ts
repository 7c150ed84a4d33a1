// Types of chat 2.0.0. Made by `slotd plugin types`: make them again instead of changing them.

/** What a client sends. */
export interface Message {
  from?: string | null;
  kind: Kind;
  /**
   * Up to 2,000 bytes.
   *
   * In any language.
   */
  text: string;
  [key: string]: unknown;
}

export type Query = {
  query: "search";
  text?: string;
} | Page & {
  query: "topic";
};

export type Answer = Line[] | null;

export type Kind = "say" | "action" | "system";

/** The reply to a message. */
export interface Reply {
  n: number;
}

export interface Page {
  limit?: number | null;
}

export interface Line {
  answers: Line[];
  at: [number, number];
  extra?: {
    [key: string]: unknown;
  };
  n: number;
  /**
   * Use `n`.
   * @deprecated
   */
  old?: string;
}

export interface Events {
  line: Line;
  /** Nobody can say anything any more. */
  "room-closed": null;
}

export interface Notifications {
  typing: boolean;
}

/** All of them: `slotd.session<Types>(service, session)`. */
export interface Types {
  message: Message;
  reply: Reply;
  query: Query;
  answer: Answer;
  events: Events;
  notifications: Notifications;
}
