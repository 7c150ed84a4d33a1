// A conversation and its window, as they lie in a session's state.
//
// The window is all pinned messages, and the newest others from `first` on. Appending moves `first`
// forward as far as the budget wants: each message leaves once, so that an append costs the same
// however long the conversation is.

import { type State, type StateView } from "slotd-guest";
import type { Role } from "./requests.ts";

/** One message of the conversation. */
export interface Entry {
    id: number;
    role: Role;
    content: string;
    tokens: number;
    /** When it was appended, milliseconds since the Unix epoch. */
    at: number;
}

export interface Config {
    /** Tokens of the system prompt and of the window. */
    budget: number;
    /** How many messages that are not pinned the window may have; null: as the budget allows. */
    last: number | null;
    system: string;
    system_tokens: number;
}

export interface Window {
    /** The oldest message in the window that is there because it is new. */
    first: number;
    /** The id of the next message. */
    next: number;
    /** Of the messages in the window, without the system prompt. */
    tokens: number;
    bytes: number;
    /** Messages of the window that are not pinned. */
    unpinned: number;
    /** Tokens of the whole conversation. */
    total: number;
}

export type Layout = {
    config: Config;
    window: Window;
    [message: `message/${string}`]: Entry;
    [pin: `pin/${string}`]: { tokens: number; bytes: number };
};

export const DEFAULTS: Config = { budget: 4096, last: null, system: "", system_tokens: 0 };

/**
 * A window must fit into one reply, whatever its tokens are said to be: a reply has 1 MiB, JSON
 * makes some characters longer.
 */
const WINDOW_BYTES_MAX = 768 * 1024;

/** Ids in keys sort as numbers do. */
const key = (id: number) => String(id).padStart(12, "0");

export class ConversationView {
    readonly view: StateView<Layout>;
    readonly config: Config;
    readonly window: Window;

    constructor(view: StateView<Layout>) {
        this.view = view;
        this.config = view.get("config") ?? { ...DEFAULTS };
        this.window = view.get("window") ?? { first: 1, next: 1, tokens: 0, bytes: 0, unpinned: 0, total: 0 };
    }

    get(id: number): Entry | undefined {
        return this.view.get(`message/${key(id)}`);
    }
    isPinned(id: number): boolean {
        return this.view.has(`pin/${key(id)}`);
    }
    pins(): number[] {
        return Array.from(this.view.scan("pin/"), ([at]) => Number(at.slice("pin/".length)));
    }
    /** Messages behind `after`, the oldest first. */
    *messages(after: number): Generator<Entry> {
        for (const [, entry] of this.view.scan("message/", { after: `message/${key(after)}` })) yield entry;
    }
    /** The messages of the window, the oldest first. */
    *inWindow(): Generator<Entry & { pinned: boolean }> {
        const pins = new Set(this.pins());
        for (const id of pins) {
            const entry = id < this.window.first ? this.get(id) : undefined;
            if (entry !== undefined) yield { ...entry, pinned: true };
        }
        for (const entry of this.messages(this.window.first - 1)) yield { ...entry, pinned: pins.has(entry.id) };
    }
    /** What the window takes of the budget, with the system prompt. */
    used(): number {
        return this.config.system_tokens + this.window.tokens;
    }
    fits(): boolean {
        return (
            this.used() <= this.config.budget &&
            this.window.bytes <= WINDOW_BYTES_MAX &&
            this.window.unpinned <= (this.config.last ?? Infinity)
        );
    }
    /** Moves the window's begin without writing: for a query with another budget. */
    fit(): number[] {
        const left: number[] = [];
        const newest = this.window.next - 1;
        while (this.window.first <= newest) {
            const entry = this.isPinned(this.window.first) ? undefined : this.get(this.window.first);
            // A tool's answer without the question before it is refused by most models.
            const orphan = entry?.role === "tool" && this.window.first < newest;
            if (this.fits() && !(orphan && this.window.first > 1)) break;
            if (entry !== undefined) {
                this.#count(entry, -1);
                left.push(entry.id);
            }
            this.window.first += 1;
        }
        return left;
    }
    /** Takes back in what fits now, after the budget has grown or a pin has gone. */
    grow(): void {
        while (this.window.first > 1) {
            const before = this.window.first - 1;
            const entry = this.isPinned(before) ? undefined : this.get(before);
            if (entry !== undefined) {
                this.#count(entry, 1);
                if (!this.fits()) {
                    this.#count(entry, -1);
                    break;
                }
            }
            this.window.first = before;
        }
        this.fit();
    }
    #count(entry: Entry, sign: 1 | -1): void {
        this.window.tokens += sign * entry.tokens;
        this.window.bytes += sign * size(entry);
        this.window.unpinned += sign;
    }
}

export class Conversation extends ConversationView {
    readonly state: State<Layout>;

    constructor(state: State<Layout>) {
        super(state);
        this.state = state;
    }

    append(entry: Omit<Entry, "id">, pin: boolean): Entry {
        const whole = { id: this.window.next, ...entry };
        this.state.set(`message/${key(whole.id)}`, whole);
        this.window.next += 1;
        this.window.total += entry.tokens;
        this.window.tokens += entry.tokens;
        this.window.bytes += size(whole);
        if (pin) this.#writePin(whole);
        else this.window.unpinned += 1;
        return whole;
    }
    pin(entry: Entry): void {
        if (this.isPinned(entry.id)) return;
        this.#writePin(entry);
        if (entry.id >= this.window.first) {
            this.window.unpinned -= 1;
        } else {
            this.window.tokens += entry.tokens;
            this.window.bytes += size(entry);
        }
    }
    unpin(entry: Entry): void {
        if (!this.isPinned(entry.id)) return;
        this.state.delete(`pin/${key(entry.id)}`);
        if (entry.id >= this.window.first) {
            this.window.unpinned += 1;
        } else {
            this.window.tokens -= entry.tokens;
            this.window.bytes -= size(entry);
        }
    }
    /** What can't leave the window: the system prompt and the pinned messages. */
    fixedTokens(): number {
        let tokens = this.config.system_tokens;
        for (const [, pin] of this.view.scan("pin/")) tokens += pin.tokens;
        return tokens;
    }
    fixedBytes(): number {
        let bytes = 0;
        for (const [, pin] of this.view.scan("pin/")) bytes += pin.bytes;
        return bytes;
    }
    isTooMuch(tokens: number, bytes: number): boolean {
        return tokens > this.config.budget || bytes > WINDOW_BYTES_MAX;
    }
    save(): void {
        this.state.set("config", this.config);
        this.state.set("window", this.window);
    }
    #writePin(entry: Entry): void {
        this.state.set(`pin/${key(entry.id)}`, { tokens: entry.tokens, bytes: size(entry) });
    }
}

/** About what a message takes in a reply. */
export function size(entry: Omit<Entry, "id">): number {
    return new TextEncoder().encode(JSON.stringify(entry.content)).length + 96;
}
