// {{name}}: a slotd plugin that counts votes.
//
// Each session is a poll. `{"vote": "tea"}` is a vote of the message's sender, who can change
// their mind; the reply is how many have voted for it. The query `{}` gives all choices.

import { handler, Rejection } from "slotd-guest";
// Made of types.json at each build and test: what clients are told, too.
import type { Answer, Events, Message, Query, Reply } from "../.slotd/types.ts";

/** What lies where in a session's state. */
type State = {
    [ballot: `ballot/${string}`]: string;
    [votes: `votes/${string}`]: number;
};

export default handler<Message, Query, State>({
    // What comes in is JSON of any shape: this makes a message of it, or throws.
    parseMessage(value) {
        const { vote } = value as Partial<Message>;
        if (typeof vote !== "string") throw new Error("`vote` is the name of a choice");
        return { vote };
    },

    handle(cx, { vote }): Reply {
        if (cx.sender === undefined) {
            throw new Rejection("no-sender", "Only someone with a name can vote.");
        }
        const ballot = `ballot/${cx.sender}` as const;
        const before = cx.state.get(ballot);
        if (before !== undefined) {
            cx.state.set(`votes/${before}`, (cx.state.get(`votes/${before}`) ?? 1) - 1);
        }
        const votes = (cx.state.get(`votes/${vote}`) ?? 0) + 1;
        cx.state.set(`votes/${vote}`, votes);
        cx.state.set(ballot, vote);
        cx.emit("voted", { vote, votes } satisfies Events["voted"]);
        return { votes };
    },

    query(cx): Answer {
        const votes = Array.from(cx.state.scan("votes/"), ([key, count]) => [
            key.slice("votes/".length),
            count,
        ]);
        return Object.fromEntries(votes);
    },

    // Called once for each session that another version has handled, `from`; on the way back too.
    migrate(_cx, from) {
        // Every 0.1 keeps votes as this one does. Where a version keeps them otherwise, convert
        // them here; what is refused stays on its version and keeps working.
        if (!from.startsWith("0.1.")) return `{{name}} 0.1 can't read the state of ${from}`;
    },
});
