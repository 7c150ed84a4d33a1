// What the types refuse would trap on a node: the build checks that they do, and nothing runs this.

import { type Context, type Duration, handler, type MigrateContext, type QueryContext, secret } from "slotd-guest";

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

export function requests(cx: Context): void {
    const headers = { authorization: `Bearer ${secret("API_KEY")}` };
    cx.http.post("llm", "https://api.example.com", { json: { a: 1 }, headers, timeout: "30s", stream: { kind: "token", form: { joined: "a.0" } } });
    cx.http.request("b", "https://api.example.com", { method: "HEAD", headers: [["a", "b"]], keepHeaders: ["x-*"] });
    // @ts-expect-error: it is `timeout`
    cx.http.get("c", "https://api.example.com", { timeoutMs: 30 });
    // @ts-expect-error: there is no such form
    cx.http.get("c", "https://api.example.com", { stream: { kind: "token", form: "json" } });
    // @ts-expect-error: `post` says it
    cx.http.post("c", "https://api.example.com", { method: "GET" });
}

// @ts-expect-error: a query makes no requests
export const requestedInQuery = (cx: QueryContext) => cx.http.get("c", "https://api.example.com");

export const openInQuery = (cx: QueryContext): string[] => cx.http.open();

// @ts-expect-error: nor does `migrate`
export const requestedInMigrate = (cx: MigrateContext) => cx.http;

// @ts-expect-error: a query closes nothing
export const closedInQuery = (cx: QueryContext) => cx.close();

export const answers = handler<{ item: string }>({
    handle: () => {},
    httpAnswer(cx, { id, response, failure, attempts }, body) {
        // @ts-expect-error: there may be none
        const status: number = response.status;
        if (failure !== undefined) return [failure.code, failure.response?.status, status];
        // Without a failure there is one.
        return [id, response.status, response.headers["x-a"]?.length, body.json(), body.text(), body.bytes, attempts];
    },
    presence(cx, present) {
        const is: boolean = present;
        return is;
    },
});

export function kinds({ origin }: Context): unknown {
    switch (origin.kind) {
        case "http":
            return origin.failure === undefined ? origin.response.ok : origin.failure.reason;
        case "presence":
            return origin.present;
        default:
            // @ts-expect-error: a message of another kind has none
            return origin.response;
    }
}
