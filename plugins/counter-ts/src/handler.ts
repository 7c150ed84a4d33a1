// The plugin `counter` in TypeScript: counts a session's messages.
//
// - A message `{"add": 3}` adds 3; a message with any other body (any bytes) adds 1.
// - The reply, and the answer to a query, is the count as JSON.
// - Rejections: `bad-add` where `add` is no whole number of 0 or more, `count-overflow`.

import { parseJson, rawHandler, Rejection, Reply } from "slotd-guest";

type State = { count: number | bigint };

const MAX = 2n ** 64n - 1n;

export default rawHandler<State>({
    handle(cx, body) {
        const count = BigInt(cx.state.get("count") ?? 0) + addend(body);
        if (count > MAX) throw new Rejection("count-overflow", "the count is at its end");
        const reply = Reply.json(count);
        cx.state.setBytes("count", reply.body);
        return reply;
    },

    query(cx) {
        return Reply.json(cx.state.get("count") ?? 0);
    },
});

function addend(body: Uint8Array): bigint {
    // Almost every body is no JSON object: don't wake the parser for those.
    if (body[0] !== 0x7b) return 1n;
    let message: { add?: unknown };
    try {
        message = parseJson(new TextDecoder("utf-8", { fatal: true }).decode(body));
    } catch {
        return 1n;
    }
    if (!Object.hasOwn(message, "add")) return 1n;
    const { add } = message;
    if (!isWhole(add) || add < 0 || add > MAX) {
        throw new Rejection("bad-add", "`add` is a whole number of 0 or more");
    }
    return BigInt(add);
}

function isWhole(value: unknown): value is number | bigint {
    return typeof value === "bigint" || Number.isSafeInteger(value);
}
