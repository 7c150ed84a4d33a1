/*
 * The plugin `counter` in C: counts a session's messages, with one `get` and one `set` each.
 *
 * - A message {"add": 3} adds 3; a message with any other body (any bytes) adds 1.
 * - The reply, and the answer to a query, is the count as JSON.
 * - Rejections: `bad-add` where `add` is no whole number of 0 or more, `count-overflow`.
 *
 * Its state is that of `counter` in every other language, so that a session goes on under any.
 */
#include "slotd.h"

#define COUNT "count"

static slotd_result handle(slotd_cx *cx, slotd_str body) {
    uint64_t add = 1;
    /* Almost every body is no JSON object: don't wake the parser for those. */
    if (slotd_starts_with(body, "{")) {
        const slotd_json *wanted = slotd_member(slotd_parse(body, NULL), "add");
        if (wanted && !slotd_as_u64(wanted, &add))
            return slotd_reject("bad-add", "`add` is a whole number of 0 or more");
    }
    uint64_t count = slotd_get_u64(cx, COUNT, 0);
    if (add > UINT64_MAX - count)
        return slotd_reject("count-overflow", "the count is at its end");
    const slotd_json *now = slotd_u64(count + add);
    slotd_set(cx, COUNT, now);
    return slotd_reply(now);
}

static slotd_result query(const slotd_cx *cx, slotd_str body) {
    (void)body;
    return slotd_reply(slotd_u64(slotd_get_u64(cx, COUNT, 0)));
}

SLOTD_HANDLER(.handle_bytes = handle, .query_bytes = query)
