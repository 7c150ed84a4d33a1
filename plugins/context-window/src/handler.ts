// A conversation with a language model, kept within the model's budget: README.md says how to use it.

import { type Context, handler, Rejection } from "slotd-guest";
import { Conversation, ConversationView, type Entry, type Layout, size } from "./conversation.ts";
import { type Message, parseMessage, parseQuery, type Query } from "./requests.ts";
import { estimate } from "./tokens.ts";

export default handler<Message, Query, Layout>({
    parseMessage,
    parseQuery,

    handle(cx, message) {
        const conversation = new Conversation(cx.state);
        switch (message.do) {
            case "configure":
                return configure(cx, conversation, message);
            case "append":
                return append(cx, conversation, message);
            case "pin":
            case "unpin":
                return pin(cx, conversation, message);
        }
    },

    query(cx, query) {
        const conversation = new ConversationView(cx.state);
        switch (query.what) {
            case "window":
                if (query.budget !== undefined) {
                    // Nothing of this is kept: what the window would be under another budget.
                    conversation.config.budget = query.budget;
                    conversation.grow();
                    if (!conversation.fits()) throw overBudget("the system prompt and the pinned messages");
                }
                return window(conversation);
            case "messages": {
                const messages: Entry[] = [];
                let bytes = 0;
                for (const entry of conversation.messages(query.after)) {
                    bytes += size(entry);
                    if (messages.length === query.limit || (bytes > PAGE_BYTES && messages.length > 0)) break;
                    messages.push(entry);
                }
                return { messages };
            }
            case "stats": {
                const { config, window } = conversation;
                return {
                    messages: window.next - 1,
                    tokens: window.total,
                    pinned: conversation.pins().length,
                    budget: config.budget,
                    last: config.last,
                    system_tokens: config.system_tokens,
                    used: conversation.used(),
                    first: window.first,
                };
            }
        }
    },

    migrate(_cx, from) {
        if (!from.startsWith("1.")) return `context-window 1 knows no way from ${from}`;
    },
});

/** A page of the whole conversation must fit into one reply. */
const PAGE_BYTES = 512 * 1024;

function configure(cx: Context<Layout>, conversation: Conversation, message: Message & { do: "configure" }) {
    const { config } = conversation;
    if (message.budget !== undefined) config.budget = message.budget;
    if (message.last !== undefined) config.last = message.last;
    if (message.system !== undefined) {
        config.system = message.system;
        config.system_tokens = message.systemTokens ?? (message.system === "" ? 0 : estimate(message.system));
    }
    if (conversation.isTooMuch(conversation.fixedTokens(), conversation.fixedBytes())) {
        throw overBudget("the system prompt and the pinned messages");
    }
    tellLeft(cx, conversation.fit());
    conversation.grow();
    conversation.save();
    return window(conversation);
}

function append(cx: Context<Layout>, conversation: Conversation, message: Message & { do: "append" }) {
    const { role, content } = message;
    const tokens = message.tokens ?? estimate(content);
    const entry = { role, content, tokens, at: cx.timeMs };
    const bytes = conversation.fixedBytes() + size(entry);
    if (conversation.isTooMuch(conversation.fixedTokens() + tokens, bytes)) {
        throw overBudget("the message, with the system prompt and the pinned messages,");
    }
    const { id } = conversation.append(entry, message.pin);
    tellLeft(cx, conversation.fit());
    conversation.save();
    cx.emit("appended", { id, role, tokens });
    return message.window ? { id, tokens, ...window(conversation) } : { id, tokens };
}

function pin(cx: Context<Layout>, conversation: Conversation, message: Message & { do: "pin" | "unpin" }) {
    const entry = conversation.get(message.id);
    if (entry === undefined) throw new Rejection("no-message", `there is no message ${message.id}`);
    if (message.do === "pin") {
        conversation.pin(entry);
        if (conversation.isTooMuch(conversation.fixedTokens(), conversation.fixedBytes())) {
            throw overBudget("the system prompt and the pinned messages");
        }
    } else {
        conversation.unpin(entry);
    }
    // Either way it may need room among the newest, or leave some.
    tellLeft(cx, conversation.fit());
    conversation.grow();
    conversation.save();
    return window(conversation);
}

function overBudget(what: string): Rejection {
    return new Rejection("over-budget", `${what} would not fit into the budget`);
}

/** For whoever makes a summary of what the model does not see any more. */
function tellLeft(cx: Context<Layout>, ids: number[]): void {
    if (ids.length > 0) cx.emit("left", { first: ids[0], last: ids[ids.length - 1], count: ids.length });
}

/** What to give the model. */
function window(conversation: ConversationView) {
    const { config } = conversation;
    const messages: { role: string; content: string }[] = [];
    const ids: (number | null)[] = [];
    if (config.system !== "") {
        messages.push({ role: "system", content: config.system });
        ids.push(null);
    }
    for (const { id, role, content } of conversation.inWindow()) {
        messages.push({ role, content });
        ids.push(id);
    }
    return { messages, ids, used: conversation.used(), budget: config.budget };
}
