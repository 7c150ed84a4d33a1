// What the types refuse would trap on a node: the build checks that they do, and nothing runs this.

import { type Context, type Duration, handler, type MigrateContext, type QueryContext } from "slotd-guest";

export const durations: Duration[] = [7, "500ms", "1.5h", "10m", "30s", "2d"];

// @ts-expect-error: it is "10m"
export const words: Duration = "10 minutes";

// @ts-expect-error: a query sets no timers
export const inQuery = (cx: QueryContext) => cx.timers.after("n", 1);

// @ts-expect-error: nor does `migrate`
export const inMigrate = (cx: MigrateContext) => cx.timers;

export function due({ origin }: Context): number | undefined {
    if (origin.kind === "timer") return origin.dueMs;
    // @ts-expect-error: a client's message has none
    return origin.dueMs;
}

export function expiring(cx: Context): void {
    cx.expire({ after: "10m" });
    cx.expire({ at: new Date(cx.timeMs + 1) });
    // @ts-expect-error: one of the two
    cx.expire({ after: "10m", at: 5 });
    // @ts-expect-error: it is { after: "10m" }
    cx.expire("10m");
}

// @ts-expect-error: a query has nothing expire
export const expiringInQuery = (cx: QueryContext) => cx.keep();

export function addresses(cx: Context): void {
    cx.send("stock/widget", 1, { replyAs: "reserve" });
    cx.send(`stock/${cx.session}`);
    if (cx.origin.kind === "session") cx.send(cx.origin.sender, 1);
    // @ts-expect-error: a service alone is no session
    cx.send("stock", 1);
    // @ts-expect-error: it is `replyAs`
    cx.send("stock/widget", 1, { replyTo: "reserve" });
}

// @ts-expect-error: a query sends nothing
export const sentInQuery = (cx: QueryContext) => cx.send("stock/widget", 1);

// @ts-expect-error: nor does `migrate`
export const sentInMigrate = (cx: MigrateContext) => cx.send("stock/widget", 1);

export const outcomes = handler<{ item: string }>({
    handle: () => {},
    answer(cx, { name, sender, refusal }, reply) {
        // @ts-expect-error: there may be none
        const code: string = refusal.code;
        return [name, sender.service, refusal?.message, reply?.left, code];
    },
});
