/*
 * The plugin `kitchen-sink` in C: does what its message says, once with every part of the SDK.
 *
 * A body of the content type `application/json` is {"op": ..} with that op's fields, as `OPS` below
 * has them. Any other body is echoed with its content type. What is not understood is rejected:
 * `bad-message`, in a query `bad-query`.
 *
 * A timer's message emits `fired`, with what it says of itself, and replies with that. Where its
 * body is an {"op": ..}, that is done before; where it has {"fails": N}, N attempts are rejected for
 * now.
 *
 * A message of another session emits `received`, with what it says of itself, and replies with that;
 * its body may have `op` and `fails` as a timer's has. The outcome of a message that was sent emits
 * `answered`, in the same way; they may be in `answer` of what was sent then, which the other kitchen
 * sink's reply has in its `body`.
 *
 * What came of a request over HTTP is added to the list under `answers` in the state, and emits
 * `answered`; under the key `fail-answers` there may be anything that has it rejected for now instead.
 * Whether there are subscribers is added to the list under `presence`, and emits `presence`.
 *
 * `migrate` refuses to come from 0.0.9, traps when it comes from 0.0.8, and writes `migrated`
 * otherwise.
 */
#include "slotd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef const slotd_json *json;

/* ---- helpers -------------------------------------------------------------------------------- */

static slotd_result done(void) { return slotd_reply(slotd_object()); }

static slotd_result bad(bool query, const char *why) {
    return slotd_reject(query ? "bad-query" : "bad-message", "%s", why);
}

static json text_or_null(slotd_str text) { return text.data ? slotd_text(text) : slotd_null(); }

/* A member that is a text, or null, or not there. */
static slotd_str optional_text(const slotd_cx *cx, json message, const char *name) {
    json value = slotd_member(message, name);
    if (slotd_type_of(value) <= SLOTD_NULL) return (slotd_str){NULL, 0};
    return slotd_need_text(cx, message, name);
}

static uint32_t need_u32(const slotd_cx *cx, json message, const char *name) {
    uint64_t number = slotd_need_u64(cx, message, name);
    return number > UINT32_MAX ? UINT32_MAX : (uint32_t)number;
}

static slotd_str to_hex(slotd_str bytes) {
    static const char digits[] = "0123456789abcdef";
    char *hex = slotd_alloc(bytes.size * 2 + 1);
    for (size_t i = 0; i < bytes.size; i++) {
        hex[2 * i] = digits[(unsigned char)bytes.data[i] >> 4];
        hex[2 * i + 1] = digits[bytes.data[i] & 15];
    }
    return slotd_bytes(hex, bytes.size * 2);
}

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool from_hex(slotd_str hex, slotd_str *bytes) {
    if (hex.size % 2) return false;
    char *out = slotd_alloc(hex.size / 2 + 1);
    for (size_t i = 0; i < hex.size; i += 2) {
        int high = digit(hex.data[i]), low = digit(hex.data[i + 1]);
        if (high < 0 || low < 0) return false;
        out[i / 2] = (char)(high << 4 | low);
    }
    *bytes = slotd_bytes(out, hex.size / 2);
    return true;
}

static slotd_str letters(uint64_t count) {
    if (count > SIZE_MAX / 2) slotd_trap("%" PRIu64 " letters are too many", count);
    char *text = slotd_alloc((size_t)count);
    memset(text, 'x', (size_t)count);
    return slotd_bytes(text, (size_t)count);
}

static bool to_u64(slotd_str text, uint64_t *out) {
    uint64_t number = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9') return false;
        uint64_t digit = (uint64_t)(text.data[i] - '0');
        if (number > (UINT64_MAX - digit) / 10) return false;
        number = number * 10 + digit;
    }
    *out = number;
    return text.size > 0;
}

/* ---- what messages and queries can both ask ------------------------------------------------- */

static slotd_result echo(const slotd_cx *cx, json message) {
    return slotd_reply(slotd_object("value", slotd_need(cx, message, "value")));
}

static slotd_result client_of(const slotd_cx *cx) {
    slotd_client client = slotd_client_of(cx);
    if (!client.kind.data) return slotd_reply(slotd_null());
    slotd_json *claims = slotd_object();
    for (size_t i = 0; i < client.claim_count; i++)
        slotd_put(claims, client.claims[i].key, slotd_text(client.claims[i].value));
    return slotd_reply(slotd_object("kind", slotd_text(client.kind), "subject",
                                    text_or_null(client.subject), "claims", claims));
}

static slotd_result get(const slotd_cx *cx, json message) {
    json value = slotd_get(cx, slotd_need_text(cx, message, "key"));
    return slotd_reply(slotd_object("value", value ? value : slotd_null()));
}

static slotd_result get_bytes(const slotd_cx *cx, json message) {
    slotd_str value = slotd_get_bytes(cx, slotd_need_text(cx, message, "key"));
    json hex = value.data ? slotd_text(to_hex(value)) : slotd_null();
    return slotd_reply(slotd_object("hex", hex));
}

/* One page, as the host gives it. */
static slotd_result scan(const slotd_cx *cx, json message) {
    slotd_str prefix = slotd_need_text(cx, message, "prefix");
    slotd_str after = optional_text(cx, message, "after");
    uint32_t limit = need_u32(cx, message, "limit");
    slotd_json *pairs = slotd_array();
    size_t count = 0;
    slotd_pair *page = slotd_page(cx, prefix, after, limit, &count);
    for (size_t i = 0; i < count; i++) {
        const char *why;
        json value = slotd_parse(page[i].value, &why);
        if (!value) return slotd_reject("bad-state", "\"%s\": %s", page[i].key.data, why);
        slotd_json *pair = slotd_array();
        slotd_push(pair, slotd_text(page[i].key));
        slotd_push(pair, value);
        slotd_push(pairs, pair);
    }
    return slotd_reply(slotd_object("pairs", pairs));
}

/* The SDK's own scan, over all pages. */
static slotd_result scan_all(const slotd_cx *cx, json message) {
    uint64_t count = 0;
    slotd_str first = {NULL, 0};
    char last[1024]; /* as long as a key may be */
    size_t last_size = 0;
    slotd_scan *scan = slotd_scan_all(cx, slotd_need_text(cx, message, "prefix"));
    while (slotd_next(scan)) {
        slotd_value(scan);
        if (!count++) first = slotd_copy(scan->key);
        last_size = scan->key.size;
        if (last_size > sizeof last) slotd_trap("a key of %zu bytes", last_size);
        memcpy(last, scan->key.data, last_size);
    }
    json last_key = count ? slotd_text(slotd_bytes(last, last_size)) : slotd_null();
    return slotd_reply(slotd_object("count", slotd_u64(count), "first", text_or_null(first), "last",
                                    last_key));
}

static slotd_result clock_now(const slotd_cx *cx) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) slotd_trap("no clock: %s", strerror(errno));
    uint64_t native_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    return slotd_reply(slotd_object("time_ms", slotd_u64(cx->time_ms), "native_ms",
                                    slotd_u64(native_ms)));
}

static slotd_result chance(void) {
    char bytes[16];
    if (getentropy(bytes, sizeof bytes)) slotd_trap("no entropy: %s", strerror(errno));
    const char *native = slotd_format("%d", rand());
    return slotd_reply(slotd_object("hex", slotd_text(to_hex(slotd_bytes(bytes, sizeof bytes))),
                                    "native", slotd_text(native)));
}

static slotd_result reject(const slotd_cx *cx, json message) {
    slotd_str code = slotd_need_text(cx, message, "code");
    slotd_str sentence = slotd_need_text(cx, message, "message");
    if (slotd_need_bool(cx, message, "retriable"))
        return slotd_reject_for_now(code.data, "%.*s", SLOTD_ARG(sentence));
    return slotd_reject(code.data, "%.*s", SLOTD_ARG(sentence));
}

static slotd_result fail(const slotd_cx *cx, json message) {
    slotd_str sentence = slotd_need_text(cx, message, "message");
    if (slotd_refused(cx)) return done();
    slotd_trap("%.*s", SLOTD_ARG(sentence));
}

/* ---- what changes something ----------------------------------------------------------------- */

static slotd_result set(slotd_cx *cx, json message) {
    slotd_set(cx, slotd_need_text(cx, message, "key"), slotd_need(cx, message, "value"));
    return done();
}

static slotd_result delete_key(slotd_cx *cx, json message) {
    slotd_delete(cx, slotd_need_text(cx, message, "key"));
    return done();
}

static slotd_result emit(slotd_cx *cx, json message, uint64_t times) {
    slotd_str kind = slotd_need_text(cx, message, "kind");
    json value = slotd_need(cx, message, "value");
    while (times-- && !slotd_refused(cx)) {
        slotd_mark mark = slotd_mark_here();
        slotd_emit(cx, kind, value);
        slotd_release(mark);
    }
    return done();
}

static slotd_result notify(slotd_cx *cx, json message, uint64_t times) {
    slotd_str kind = slotd_need_text(cx, message, "kind");
    json value = slotd_need(cx, message, "value");
    while (times-- && !slotd_refused(cx)) {
        slotd_mark mark = slotd_mark_here();
        slotd_notify(cx, kind, value);
        slotd_release(mark);
    }
    return done();
}

static slotd_result set_bytes(slotd_cx *cx, json message) {
    slotd_str key = slotd_need_text(cx, message, "key"), bytes;
    if (!from_hex(slotd_need_text(cx, message, "hex"), &bytes))
        return bad(false, "`hex` is not hexadecimal");
    slotd_set_bytes(cx, key, bytes);
    return done();
}

/* Writes `count` values of `bytes` letters. */
static slotd_result fill(slotd_cx *cx, json message) {
    slotd_str prefix = slotd_need_text(cx, message, "prefix");
    uint64_t count = slotd_need_u64(cx, message, "count");
    uint64_t bytes = slotd_need_u64(cx, message, "bytes");
    json value = slotd_text(letters(bytes));
    for (uint64_t i = 0; i < count && !slotd_refused(cx); i++) {
        slotd_mark mark = slotd_mark_here();
        slotd_set(cx, slotd_format("%.*s%05" PRIu64, SLOTD_ARG(prefix), i), value);
        slotd_release(mark);
    }
    return done();
}

static slotd_result write_log(const slotd_cx *cx, json message) {
    static const char *const levels[] = {"trace", "debug", "info", "warn", "error"};
    slotd_str level = slotd_need_text(cx, message, "level");
    slotd_str text = slotd_need_text(cx, message, "text");
    for (int i = SLOTD_TRACE; i <= SLOTD_ERROR; i++) {
        if (!slotd_equal(level, levels[i])) continue;
        slotd_log((slotd_level)i, "%.*s", SLOTD_ARG(text));
        return done();
    }
    return bad(false, "no such level");
}

static slotd_result print(const slotd_cx *cx, json message) {
    slotd_str text = slotd_need_text(cx, message, "text");
    printf("%.*s\n", SLOTD_ARG(text));
    return done();
}

/* Adds to a u64, which is kept as JSON. */
static slotd_result add64(slotd_cx *cx, json message) {
    slotd_str key = slotd_need_text(cx, message, "key");
    uint64_t n;
    if (!to_u64(slotd_need_text(cx, message, "n"), &n)) return bad(false, "`n` is no u64");
    uint64_t sum = slotd_get_u64(cx, key, 0) + n;
    slotd_set(cx, key, slotd_u64(sum));
    return slotd_reply(slotd_object("sum", slotd_text(slotd_format("%" PRIu64, sum))));
}

/* Writes the key that is said, to see that nothing of it stays. */
static void set_before(slotd_cx *cx, json message) {
    slotd_str key = optional_text(cx, message, "set");
    if (key.data) slotd_set(cx, key, slotd_text("written"));
}

/* What a call leaves on the stack keeps it from becoming a loop. */
static __attribute__((noinline)) uint64_t deep(uint64_t depth) {
    volatile uint64_t frame[16] = {depth};
    return depth ? deep(depth - 1) + frame[0] : 0;
}

static slotd_result allocate(void) {
    for (;;) {
        char *mib = malloc(1024 * 1024);
        if (!mib) slotd_trap("out of memory");
        /* Touched, so that it is really there; lost, so that it stays. */
        memset(mib, 1, 1024 * 1024);
        __asm__ volatile("" : : "r"(mib) : "memory");
    }
}

static _Noreturn void spin(void) {
    for (volatile unsigned i = 0;; i = i + 1) {
    }
}

/* ---- timers --------------------------------------------------------------------------------- */

static slotd_result set_timer(slotd_cx *cx, json message) {
    slotd_str name = slotd_need_text(cx, message, "name");
    json body = slotd_need(cx, message, "body"), cron = slotd_member(message, "cron");
    uint64_t due_ms;
    if (slotd_member(message, "after"))
        due_ms = slotd_timer_after(cx, name, slotd_need_u64(cx, message, "after"), body);
    else if (slotd_member(message, "at"))
        due_ms = slotd_timer_at(cx, name, slotd_need_u64(cx, message, "at"), body);
    else if (slotd_member(message, "every"))
        due_ms = slotd_timer_every(cx, name, slotd_need_u64(cx, message, "every"), body);
    else {
        slotd_str expression, zone;
        if (!slotd_as_text(slotd_at(cron, 0), &expression) ||
            !slotd_as_text(slotd_at(cron, 1), &zone))
            return bad(false, "a timer has `after`, `at`, `every` or `cron`");
        due_ms = slotd_timer_cron(cx, name, expression, zone, body);
    }
    return slotd_reply(slotd_object("due", slotd_u64(due_ms)));
}

static slotd_result cancel_timer(slotd_cx *cx, json message) {
    bool was = slotd_timer_cancel(cx, slotd_need_text(cx, message, "name"));
    return slotd_reply(slotd_object("was", slotd_bool(was)));
}

static slotd_result timers(const slotd_cx *cx) {
    slotd_json *all = slotd_array();
    slotd_str after = {NULL, 0};
    size_t count;
    const slotd_timer *timers;
    while ((timers = slotd_timer_list(cx, after, 100, &count)) != NULL && count) {
        for (size_t i = 0; i < count; i++)
            slotd_push(all, slotd_object("name", slotd_text(timers[i].name), "due",
                                         slotd_u64(timers[i].due_ms), "failures",
                                         slotd_u64(timers[i].failures)));
        after = timers[count - 1].name;
    }
    return slotd_reply(all);
}

/* ---- when it expires ------------------------------------------------------------------------- */

static slotd_result expire(slotd_cx *cx, json message) {
    bool after = slotd_member(message, "after") != NULL, at = slotd_member(message, "at") != NULL;
    if (after == at) return bad(false, "it takes one of `after` and `at`");
    if (after)
        slotd_expire_after(cx, slotd_need_u64(cx, message, "after"));
    else
        slotd_expire_at(cx, slotd_need_u64(cx, message, "at"));
    return done();
}

static slotd_result keep(slotd_cx *cx) {
    slotd_keep(cx);
    return done();
}

/* ---- messages to other sessions -------------------------------------------------------------- */

static slotd_result send(slotd_cx *cx, json message) {
    slotd_str to = slotd_need_text(cx, message, "to"), bytes = {NULL, 0};
    json body = slotd_member(message, "body"), times = slotd_member(message, "times");
    slotd_str hex = optional_text(cx, message, "hex"), reply = optional_text(cx, message, "reply");
    if (!body == !hex.data) return bad(false, "it takes one of `body` and `hex`");
    if (hex.data && !from_hex(hex, &bytes)) return bad(false, "`hex` is not hexadecimal");
    uint64_t count = times ? slotd_need_u64(cx, message, "times") : 1;
    for (; count-- && !slotd_refused(cx);) {
        slotd_mark mark = slotd_mark_here();
        if (hex.data) {
            const char *why;
            slotd_send_bytes_to(cx, slotd_address_of(to), "application/octet-stream", bytes, reply,
                                &why);
            if (why) return slotd_reject("bad-send", "%s", why);
        } else if (reply.data) {
            slotd_send_for_reply(cx, to, reply, body);
        } else {
            slotd_send_to(cx, to, body);
        }
        slotd_release(mark);
    }
    return done();
}

static json address(slotd_address of) {
    return slotd_text(slotd_format("%.*s/%.*s", SLOTD_ARG(of.service), SLOTD_ARG(of.session)));
}

/* ---- requests over HTTP ---------------------------------------------------------------------- */

/* A number of the options; as the host has it where there is none. */
static int64_t option(const slotd_cx *cx, json options, const char *name) {
    if (slotd_type_of(slotd_member(options, name)) <= SLOTD_NULL) return -1;
    return need_u32(cx, options, name);
}

static bool show(const slotd_cx *cx, json stream, slotd_request *request) {
    slotd_str kind = slotd_need_text(cx, stream, "kind"), word = {NULL, 0};
    json form = slotd_need(cx, stream, "form");
    slotd_as_text(form, &word);
    if (slotd_equal(word, "text"))
        slotd_request_show(request, kind);
    else if (slotd_equal(word, "data"))
        slotd_request_show_data(request, kind);
    else if (slotd_member(form, "joined"))
        slotd_request_show_joined(request, kind, slotd_need_text(cx, form, "joined"));
    else
        return false;
    return true;
}

/* Whether its headers are pairs of texts. */
static bool add_headers(json headers, slotd_request *request) {
    if (headers && slotd_type_of(headers) != SLOTD_ARRAY) return false;
    for (size_t i = 0; i < slotd_count(headers); i++) {
        json pair = slotd_at(headers, i);
        slotd_str name, value;
        if (slotd_type_of(pair) != SLOTD_ARRAY || slotd_count(pair) != 2 ||
            !slotd_as_text(slotd_at(pair, 0), &name) || !slotd_as_text(slotd_at(pair, 1), &value))
            return false;
        slotd_request_header(request, name, value);
    }
    return true;
}

static slotd_result ask(slotd_cx *cx, json message) {
    slotd_str id = slotd_need_text(cx, message, "id");
    slotd_request *request = slotd_request_to(slotd_need_text(cx, message, "method"),
                                              slotd_need_text(cx, message, "url"));
    if (!add_headers(slotd_member(message, "headers"), request))
        return bad(false, "`headers` are pairs of texts");
    request->body = optional_text(cx, message, "body");
    json options = slotd_member(message, "options"), kept = slotd_member(options, "keep_headers");
    request->timeout_ms = option(cx, options, "timeout_ms");
    request->deadline_ms = option(cx, options, "deadline_ms");
    request->attempts = option(cx, options, "attempts");
    request->redirects = option(cx, options, "redirects");
    request->answer_bytes = option(cx, options, "answer_bytes");
    for (size_t i = 0; i < slotd_count(kept); i++) {
        slotd_str name;
        if (!slotd_as_text(slotd_at(kept, i), &name)) return bad(false, "`keep_headers` are texts");
        slotd_request_keep(request, name);
    }
    json stream = slotd_member(options, "stream");
    if (slotd_type_of(stream) > SLOTD_NULL && !show(cx, stream, request))
        return bad(false, "`form` is none");
    const char *why;
    slotd_request_try(cx, id, request, &why);
    return slotd_reply(why ? slotd_object("problem", slotd_text(why)) : slotd_null());
}

static slotd_result cancel_request(slotd_cx *cx, json message) {
    bool was = slotd_request_cancel(cx, slotd_need_text(cx, message, "id"));
    return slotd_reply(slotd_bool(was));
}

static slotd_result open_requests(const slotd_cx *cx) {
    size_t count;
    const slotd_str *ids = slotd_request_open(cx, &count);
    slotd_json *all = slotd_array();
    for (size_t i = 0; i < count; i++) slotd_push(all, slotd_text(ids[i]));
    return slotd_reply(all);
}

/* ---- the end, and who is there ---------------------------------------------------------------- */

static slotd_result close_session(slotd_cx *cx) {
    slotd_close(cx);
    return done();
}

static slotd_result watch(slotd_cx *cx, json message) {
    slotd_watch_subscribers(cx, slotd_need_bool(cx, message, "wanted"));
    return done();
}

/* ---- the handler ---------------------------------------------------------------------------- */

#define OP(name) if (slotd_equal(op, name))

static slotd_result handle_op(slotd_cx *cx, json message) {
    slotd_str op = slotd_need_text(cx, message, "op");
    OP("echo") return echo(cx, message);
    OP("context")
        return slotd_reply(slotd_object(
            "session", slotd_text(cx->session), "seq", slotd_u64(cx->seq), "id",
            text_or_null(cx->id), "sender", text_or_null(cx->sender), "content_type",
            slotd_text(cx->content_type)));
    OP("client") return client_of(cx);
    OP("get") return get(cx, message);
    OP("set") return set(cx, message);
    OP("delete") return delete_key(cx, message);
    OP("get-bytes") return get_bytes(cx, message);
    OP("set-bytes") return set_bytes(cx, message);
    OP("scan") return scan(cx, message);
    OP("scan-all") return scan_all(cx, message);
    OP("fill") return fill(cx, message);
    OP("emit") return emit(cx, message, slotd_need_u64(cx, message, "times"));
    OP("notify") return notify(cx, message, slotd_need_u64(cx, message, "times"));
    OP("timer") return set_timer(cx, message);
    OP("cancel-timer") return cancel_timer(cx, message);
    OP("timers") return timers(cx);
    OP("expire") return expire(cx, message);
    OP("keep") return keep(cx);
    OP("send") return send(cx, message);
    OP("request") return ask(cx, message);
    OP("cancel-request") return cancel_request(cx, message);
    OP("open-requests") return open_requests(cx);
    OP("close") return close_session(cx);
    OP("watch") return watch(cx, message);
    OP("log") return write_log(cx, message);
    OP("print") return print(cx, message);
    OP("add64") return add64(cx, message);
    OP("clock") return clock_now(cx);
    OP("random") return chance();
    OP("reject") {
        set_before(cx, message);
        return reject(cx, message);
    }
    OP("throw") {
        set_before(cx, message);
        return fail(cx, message);
    }
    OP("deep") {
        deep(slotd_need_u64(cx, message, "depth"));
        return done();
    }
    OP("spin") spin();
    OP("allocate") return allocate();
    OP("big") {
        slotd_str text = letters(slotd_need_u64(cx, message, "bytes"));
        return slotd_reply(slotd_object("text", slotd_text(text)));
    }
    return bad(false, "no such op");
}

/* Does what the body of a message says that is from no client: fails, or an op. */
static slotd_result obey(slotd_cx *cx, json body, uint32_t attempt) {
    uint64_t fails = 0;
    slotd_as_u64(slotd_member(body, "fails"), &fails);
    if (attempt <= fails) return slotd_reject_for_now("told-to", "As told.");
    return slotd_member(body, "op") ? handle_op(cx, body) : done();
}

static slotd_result told(slotd_cx *cx, const char *kind, json said) {
    slotd_emit(cx, kind, said);
    return slotd_reply(said);
}

/* A timer's message. */
static slotd_result fired(slotd_cx *cx, json body) {
    slotd_firing firing = slotd_timer_firing(cx);
    slotd_result result = obey(cx, body, firing.attempt);
    if (result.kind != SLOTD_REPLY || slotd_refused(cx)) return result;
    json said = slotd_object("name", slotd_text(cx->origin_name), "due", slotd_u64(firing.due_ms),
                             "missed", slotd_u64(firing.missed), "attempt",
                             slotd_u64(firing.attempt), "body", body);
    return told(cx, "fired", said);
}

/* Another session's message. */
static slotd_result received(slotd_cx *cx, const slotd_arrival *from, json body) {
    slotd_result result = obey(cx, body, from->attempt);
    if (result.kind != SLOTD_REPLY || slotd_refused(cx)) return result;
    return told(cx, "received",
                slotd_object("from", address(from->sender), "attempt", slotd_u64(from->attempt),
                             "reply", slotd_bool(from->reply_wanted), "body", body));
}

/* What came of a message that was sent. */
static slotd_result answered(slotd_cx *cx, const slotd_arrival *answer, json body) {
    json what = slotd_member(slotd_member(body, "body"), "answer"), refusal = slotd_null();
    slotd_result result = what ? obey(cx, what, answer->attempt) : done();
    if (result.kind != SLOTD_REPLY || slotd_refused(cx)) return result;
    if (answer->refused)
        refusal = slotd_object("code", slotd_text(answer->code), "message",
                               slotd_text(answer->message), "retriable",
                               slotd_bool(answer->retriable));
    return told(cx, "answered",
                slotd_object("name", slotd_text(answer->name), "from", address(answer->sender),
                             "attempt", slotd_u64(answer->attempt), "refusal", refusal, "body",
                             body));
}

/* Adds to the list under a key of the state. */
static void add(slotd_cx *cx, const char *key, json value) {
    json before = slotd_get(cx, key);
    slotd_json *all = slotd_array();
    for (size_t i = 0; i < slotd_count(before); i++) slotd_push(all, slotd_at(before, i));
    slotd_push(all, value);
    slotd_set(cx, key, all);
}

/* What came of a request over HTTP. */
static slotd_result http_answer(slotd_cx *cx, const slotd_http_answer *answer, slotd_str body) {
    if (slotd_get_bytes(cx, "fail-answers").data)
        return slotd_reject_for_now("told-to", "As told.");
    slotd_json *said = slotd_object("id", slotd_text(answer->id));
    if (answer->failed)
        slotd_put(said, "failure", slotd_text(answer->code));
    else
        slotd_put(said, "status", slotd_u64(answer->status));
    slotd_put(said, "body", slotd_text(slotd_utf8(body)));
    slotd_put(said, "attempts", slotd_u64(answer->attempts));
    slotd_put(said, "attempt", slotd_u64(answer->attempt));
    add(cx, "answers", said);
    return told(cx, "answered", said);
}

static slotd_result presence(slotd_cx *cx, bool present) {
    add(cx, "presence", slotd_bool(present));
    return told(cx, "presence", slotd_bool(present));
}

static slotd_result answer(const slotd_cx *cx, json query) {
    slotd_str op = slotd_need_text(cx, query, "op");
    /* What a query may not do: the host must see to it where a cast has got past the compiler. */
    slotd_cx *forbidden = (slotd_cx *)cx;
    OP("echo") return echo(cx, query);
    OP("context")
        return slotd_reply(slotd_object("session", slotd_text(cx->session), "seq",
                                        slotd_u64(cx->seq), "content_type",
                                        slotd_text(cx->content_type)));
    OP("client") return client_of(cx);
    OP("get") return get(cx, query);
    OP("get-bytes") return get_bytes(cx, query);
    OP("scan") return scan(cx, query);
    OP("scan-all") return scan_all(cx, query);
    OP("timers") return timers(cx);
    OP("open-requests") return open_requests(cx);
    OP("clock") return clock_now(cx);
    OP("random") return chance();
    OP("reject") return reject(cx, query);
    OP("throw") return fail(cx, query);
    OP("set") return set(forbidden, query);
    OP("delete") return delete_key(forbidden, query);
    OP("emit") return emit(forbidden, query, 1);
    OP("notify") return notify(forbidden, query, 1);
    OP("timer") return set_timer(forbidden, query);
    OP("cancel-timer") return cancel_timer(forbidden, query);
    OP("expire") return expire(forbidden, query);
    OP("keep") return keep(forbidden);
    OP("send") return send(forbidden, query);
    OP("request") return ask(forbidden, query);
    OP("cancel-request") return cancel_request(forbidden, query);
    OP("close") return close_session(forbidden);
    OP("watch") return watch(forbidden, query);
    return bad(true, "no such op");
}

static slotd_result handle(slotd_cx *cx, slotd_str body) {
    bool is_json = slotd_equal(cx->content_type, "application/json");
    slotd_arrival from = slotd_arrived(cx);
    const char *why = NULL;
    json message;
    if (from.kind == SLOTD_ANSWER && from.refused)
        message = slotd_null();
    else if (is_json)
        message = slotd_parse(body, &why);
    else if (from.kind == SLOTD_ANSWER)
        message = slotd_text(to_hex(body));
    else
        return slotd_reply_bytes(cx->content_type, body);
    if (!message) return bad(false, why);
    if (from.kind == SLOTD_ANSWER) return answered(cx, &from, message);
    if (from.kind == SLOTD_MESSAGE) return received(cx, &from, message);
    return cx->origin == SLOTD_TIMER ? fired(cx, message) : handle_op(cx, message);
}

static slotd_result query(const slotd_cx *cx, slotd_str body) {
    if (!slotd_equal(cx->content_type, "application/json"))
        return slotd_reply_bytes(cx->content_type, body);
    const char *why;
    json query = slotd_parse(body, &why);
    return query ? answer(cx, query) : bad(true, why);
}

static const char *migrate(slotd_cx *cx, const char *from) {
    if (!strcmp(from, "0.0.9")) return "no way from 0.0.9";
    if (!strcmp(from, "0.0.8")) slotd_trap("thrown by migrate");
    slotd_set(cx, "migrated", slotd_object("from", slotd_text(from)));
    return NULL;
}

SLOTD_HANDLER(.handle_bytes = handle, .query_bytes = query, .migrate = migrate)
SLOTD_HTTP_ANSWERS(http_answer)
SLOTD_PRESENCE(presence)
