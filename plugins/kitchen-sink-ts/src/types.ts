// What the types refuse would trap on a node: the build checks that they do, and nothing runs this.

import type { Context, Duration, MigrateContext, QueryContext } from "slotd-guest";

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
