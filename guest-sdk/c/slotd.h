/*
 * slotd.h: write slotd slot handlers in C.
 *
 * A handler decides what happens to the messages of a session. It is called for one message of one
 * session at a time, sees that session's state only, and either replies (all that it wrote and
 * emitted is then committed with the message) or rejects (nothing is kept).
 *
 *     #include "slotd.h"
 *
 *     static slotd_result count(slotd_cx *cx, const slotd_json *message) {
 *         (void)message;
 *         uint64_t n = slotd_get_u64(cx, "count", 0) + 1;
 *         slotd_set(cx, "count", slotd_u64(n));
 *         return slotd_reply(slotd_u64(n));
 *     }
 *     SLOTD_HANDLER(.handle = count)
 *
 * Memory. Whatever a function here gives lives until the call of your handler ends, and is then
 * freed; whatever you pass is used or copied at once. There is nothing to free. (Two exceptions,
 * both to save memory in long loops: `slotd_next` and `slotd_release`.) Nothing gives NULL for
 * want of memory: the call then ends in a trap.
 *
 * Text. Where a parameter is a `slotd_str`, a `const char *` will do as well. What is given to you
 * has a zero byte behind its end, so that its `data` is also a C string, unless it contains zero
 * bytes of its own.
 *
 * Errors. One rule: what you reject, rejects (the sender gets 422 with your code). A body that is
 * no JSON is rejected as `bad-message`, in a query as `bad-query`; state that is not what you asked
 * for as `bad-state`; a timer whose moment can't be, and a time that no session can expire at, as
 * `bad-moment`; an address that nothing can be sent to as `bad-send`; options that a request over
 * HTTP can't have as `bad-request`. Everything else
 * (`slotd_trap`, `assert`, `abort`, a null pointer, an index out of bounds, a signed overflow, no
 * more memory) writes a line with the file and line of your source to the node's log and traps: the
 * sender gets 500, nothing is kept.
 *
 * Time and chance. `time`, `clock_gettime` and their like stand at the message's time; `rand`,
 * `random`, `drand48`, `arc4random` and `getentropy` begin anew for each call, from the session,
 * the message's number and the kind of call. Two runs of a message give the same; no secret.
 *
 * Keep nothing between calls: a global or `static` variable would leak one session into another.
 */
#ifndef SLOTD_H
#define SLOTD_H

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#ifdef __cplusplus
#error "slotd.h is for C; wrap it in C functions to use C++"
#endif

/* ---- text and bytes ------------------------------------------------------------------------- */

/* Text (UTF-8) or bytes. `data` is NULL where there is none (an absent key, no sender). */
typedef struct slotd_str {
    const char *data;
    size_t size;
} slotd_str;

/* `size` bytes from `data`. */
static inline slotd_str slotd_bytes(const void *data, size_t size) {
    return (slotd_str){(const char *)data, size};
}
bool slotd_equal(slotd_str a, slotd_str b);
bool slotd_starts_with(slotd_str text, slotd_str prefix);
/* Its bytes from `from` on; empty past the end. */
slotd_str slotd_from(slotd_str text, size_t from);
/* As `sprintf`, of any length. A slotd_str is printed by "%.*s" and SLOTD_ARG(it). */
const char *slotd_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
#define SLOTD_ARG(text) (int)(text).size, (text).data ? (text).data : ""

/* ---- memory --------------------------------------------------------------------------------- */

/* `size` bytes, all zero, aligned for anything, until the call ends. Never NULL. */
void *slotd_alloc(size_t size);
/* A copy that lives until the call ends. */
slotd_str slotd_copy(slotd_str text);
/* A copy with question marks in the place of what is no UTF-8: of bytes that come from elsewhere. */
slotd_str slotd_utf8(slotd_str bytes);

/* For long loops: `slotd_release` frees all that was given since the mark was made. */
typedef struct slotd_mark {
    void *chunk;
    size_t used;
} slotd_mark;
slotd_mark slotd_mark_here(void);
void slotd_release(slotd_mark mark);

/* ---- JSON ----------------------------------------------------------------------------------- */

/* A value. Where one is read, NULL stands for one that is not there: it has no type, no members
 * and no items, so that look-ups can be chained without a check between them. */
typedef struct slotd_json slotd_json;

typedef enum slotd_type {
    SLOTD_NOTHING,
    SLOTD_NULL,
    SLOTD_BOOL,
    SLOTD_NUMBER,
    SLOTD_TEXT,
    SLOTD_ARRAY,
    SLOTD_OBJECT
} slotd_type;

slotd_type slotd_type_of(const slotd_json *value);
/* An object's member (the last of that name), or NULL. */
const slotd_json *slotd_member(const slotd_json *object, slotd_str name);
/* How many members or items there are. */
size_t slotd_count(const slotd_json *value);
/* The member or item at an index, or NULL, and that member's name. */
const slotd_json *slotd_at(const slotd_json *value, size_t index);
slotd_str slotd_name_at(const slotd_json *object, size_t index);
/* False where the value is another; `out` is then as it was. Integers are exact: 1.0 and 1e3 are
 * none. */
bool slotd_as_bool(const slotd_json *value, bool *out);
bool slotd_as_u64(const slotd_json *value, uint64_t *out);
bool slotd_as_i64(const slotd_json *value, int64_t *out);
bool slotd_as_f64(const slotd_json *value, double *out);
bool slotd_as_text(const slotd_json *value, slotd_str *out);
/* Whether they are the same, members in any order. Numbers by their value. */
bool slotd_same(const slotd_json *a, const slotd_json *b);

const slotd_json *slotd_null(void);
const slotd_json *slotd_bool(bool value);
const slotd_json *slotd_u64(uint64_t value);
const slotd_json *slotd_i64(int64_t value);
/* `value` must be finite: JSON has no form for NaN and the infinities. */
const slotd_json *slotd_f64(double value);
/* `text` must be UTF-8. */
const slotd_json *slotd_text(slotd_str text);
/* slotd_object("name", value, "name", value, ...): names are C strings, values slotd_json *. */
slotd_json *slotd_object(const char *name, ...) __attribute__((sentinel));
/* Adds or replaces a member. */
void slotd_put(slotd_json *object, slotd_str name, const slotd_json *value);
slotd_json *slotd_array(void);
void slotd_push(slotd_json *array, const slotd_json *value);

/* NULL where `text` is no JSON; `*why`, if `why` is given, says why. Values may be nested 128 deep.
 */
const slotd_json *slotd_parse(slotd_str text, const char **why);
slotd_str slotd_write(const slotd_json *value);

/* ---- the call ------------------------------------------------------------------------------- */

typedef enum slotd_origin {
    SLOTD_CLIENT,
    SLOTD_SESSION, /* another session, `service/session`, or this one; see slotd_arrived. This one
                    * itself, too, where it is told of its subscribers; see slotd_presence_told */
    SLOTD_TIMER,   /* a timer that this session set; see slotd_timer_firing */
    SLOTD_HTTP     /* the answer to a request over HTTP; see slotd_http_answered */
} slotd_origin;

/* The message being handled, or the query being answered. A query's is const, and whatever would
 * change something takes one that is not. */
typedef struct slotd_cx {
    /* The session's id within its service. */
    slotd_str session;
    /* Of a message: the number that it gets if it is not rejected, from 1, without a gap. Of a
     * query: that of the last message. */
    uint64_t seq;
    /* Milliseconds since the Unix epoch; never goes back within a session. Not in `migrate`. */
    uint64_t time_ms;
    /* As the sender gave it. */
    slotd_str content_type;
    /* The sender's idempotency key, if it gave one. Messages only, as is what follows. */
    slotd_str id;
    /* The name that a client gave as its sender, if it gave one. */
    slotd_str sender;
    slotd_origin origin;
    /* The session, timer or request that the message is from, where it is from no client. */
    slotd_str origin_name;
} slotd_cx;

/* As cx->time_ms. */
uint64_t slotd_time_ms(const slotd_cx *cx);

/* What a handler returns: made by one of these. */
typedef struct slotd_result {
    enum { SLOTD_NO_RESULT, SLOTD_REPLY, SLOTD_REJECTION } kind;
    slotd_str content_type, body;
    slotd_str code, message;
    bool retriable;
} slotd_result;

/* Replies, with JSON. */
slotd_result slotd_reply(const slotd_json *value);
/* Replies, with anything. */
slotd_result slotd_reply_bytes(slotd_str content_type, slotd_str body);
/* Refuses: `code` in kebab-case, for programs; then one sentence for people, as for `printf`. */
slotd_result slotd_reject(const char *code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* As slotd_reject, and says that the same message may succeed later. */
slotd_result slotd_reject_for_now(const char *code, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* A message's member, for what cannot be handled without it: where it is not there or something
 * else, the call will be rejected as `bad-message` (a query's: `bad-query`), whatever the handler
 * then returns, and 0, false, an empty text or null is given. From then on nothing is read, written,
 * emitted or set. */
const slotd_json *slotd_need(const slotd_cx *cx, const slotd_json *message, slotd_str name);
slotd_str slotd_need_text(const slotd_cx *cx, const slotd_json *message, slotd_str name);
uint64_t slotd_need_u64(const slotd_cx *cx, const slotd_json *message, slotd_str name);
int64_t slotd_need_i64(const slotd_cx *cx, const slotd_json *message, slotd_str name);
double slotd_need_f64(const slotd_cx *cx, const slotd_json *message, slotd_str name);
bool slotd_need_bool(const slotd_cx *cx, const slotd_json *message, slotd_str name);
/* Whether the call will be rejected for that, for its state, a moment, an address or a request: time
 * to return anything. */
bool slotd_refused(const slotd_cx *cx);

/* ---- state ---------------------------------------------------------------------------------- */

/* This session's: a sorted map from text to bytes. A call sees its own writes. A key has 1 to 1,024
 * bytes, a value 1 MiB at most, what one message writes 4 MiB. */

/* The value under `key`, from JSON; NULL where there is none. Where it is not what is asked for,
 * the call will be rejected as `bad-state`, whatever the handler then returns. */
const slotd_json *slotd_get(const slotd_cx *cx, slotd_str key);
uint64_t slotd_get_u64(const slotd_cx *cx, slotd_str key, uint64_t otherwise);
int64_t slotd_get_i64(const slotd_cx *cx, slotd_str key, int64_t otherwise);
/* Its `data` is NULL where there is none. */
slotd_str slotd_get_text(const slotd_cx *cx, slotd_str key);
slotd_str slotd_get_bytes(const slotd_cx *cx, slotd_str key);
void slotd_set(slotd_cx *cx, slotd_str key, const slotd_json *value);
void slotd_set_bytes(slotd_cx *cx, slotd_str key, slotd_str value);
/* Deleting what is not there is no error. */
void slotd_delete(slotd_cx *cx, slotd_str key);

/* The pairs whose key starts with a prefix, in order of the keys' bytes:
 *
 *     slotd_scan *scan = slotd_scan_all(cx, "votes/");
 *     while (slotd_next(scan)) {
 *         ... scan->key, scan->value, slotd_value(scan) ...
 *     }
 *
 * What a scan gives lives until the next slotd_next of that scan: take a slotd_copy of what must
 * stay. It reads pages as it goes: a write behind it is not seen, one ahead of it may be. */
typedef struct slotd_scan {
    slotd_str key;
    slotd_str value;
} slotd_scan;
slotd_scan *slotd_scan_all(const slotd_cx *cx, slotd_str prefix);
/* Begins behind the key `after`. */
slotd_scan *slotd_scan_after(const slotd_cx *cx, slotd_str prefix, slotd_str after);
bool slotd_next(slotd_scan *scan);
/* The value at hand, from JSON; NULL where it is none, and the call is rejected as `bad-state`. */
const slotd_json *slotd_value(slotd_scan *scan);
/* As slotd_value, a whole number. */
uint64_t slotd_value_u64(slotd_scan *scan);

/* One page of a scan as the host gives it, with no more than `limit` pairs (1,000 at most); it may
 * end early, only an empty one says that there is no more. Lives until the call ends. */
typedef struct slotd_pair {
    slotd_str key, value;
} slotd_pair;
slotd_pair *slotd_page(const slotd_cx *cx, slotd_str prefix, slotd_str after, uint32_t limit,
                       size_t *count);

/* ---- events --------------------------------------------------------------------------------- */

/* Tells the session's subscribers, once the message is durable. `kind` is one word. 256 events and
 * 1 MiB of them a message; none in `migrate`. */
void slotd_emit(slotd_cx *cx, slotd_str kind, const slotd_json *value);
void slotd_emit_bytes(slotd_cx *cx, slotd_str kind, slotd_str content_type, slotd_str body);

/* Tells whoever is subscribed to the session at that moment, in passing: an ephemeral event. It is
 * sent once the message is durable, after what the message emitted, and at most once. It has no
 * place in the history: nobody gets it later, and a subscriber that is slow misses it. 64 of them
 * and 256 KiB a message; none in `migrate`. */
void slotd_notify(slotd_cx *cx, slotd_str kind, const slotd_json *value);
void slotd_notify_bytes(slotd_cx *cx, slotd_str kind, slotd_str content_type, slotd_str body);

/* ---- timers --------------------------------------------------------------------------------- */

/* Messages that the session sends itself later. A timer has a name of 1 to 128 bytes without
 * control characters; setting one of that name again replaces it. It is set, and cancelled, with
 * the message that does so: all or nothing. When it is due, the handler gets its body as a message
 * of the origin SLOTD_TIMER, with the timer's name in cx->origin_name. It is never early, and may be
 * late. A handler that traps or rejects for now is called again, after 1 second, 2, 4, up to 5
 * minutes, 20 times in all; after that, or after another rejection, the message is kept for an
 * operator.
 *
 * A session has 1,000 timers and 1 MiB of them at most, 64 KiB a body; one message sets or cancels
 * 256. None are set or cancelled in `migrate`. */

/* Each sets a timer and gives the time that it is for, in milliseconds since the Unix epoch. Where
 * the moment can't be (a period of less than 100 ms, an expression that is none), the call will be
 * rejected as `bad-moment`, whatever the handler then returns. */

/* Once, at a time; one that has passed is due now; in a timer's own message 100 ms later at the
 * earliest. */
uint64_t slotd_timer_at(slotd_cx *cx, slotd_str name, uint64_t time_ms, const slotd_json *body);
/* Once, so long after the message's time. */
uint64_t slotd_timer_after(slotd_cx *cx, slotd_str name, uint64_t delay_ms, const slotd_json *body);
/* Again and again, the first time that long after the message's time. A period does not drift: times
 * that were missed are one message that says how many. */
uint64_t slotd_timer_every(slotd_cx *cx, slotd_str name, uint64_t period_ms,
                           const slotd_json *body);
/* At the times that an expression of five fields names (minute, hour, day of the month, month, day of
 * the week), in a time zone: "Europe/Berlin", "UTC". */
uint64_t slotd_timer_cron(slotd_cx *cx, slotd_str name, slotd_str expression, slotd_str zone,
                          const slotd_json *body);

/* When a timer fires, as above. */
typedef struct slotd_moment {
    enum { SLOTD_AT, SLOTD_AFTER, SLOTD_EVERY, SLOTD_CRON } kind;
    /* The time, the delay or the period. */
    uint64_t ms;
    slotd_str expression, zone;
} slotd_moment;
static inline slotd_moment slotd_moment_at(uint64_t time_ms) {
    return (slotd_moment){.kind = SLOTD_AT, .ms = time_ms};
}
static inline slotd_moment slotd_moment_after(uint64_t delay_ms) {
    return (slotd_moment){.kind = SLOTD_AFTER, .ms = delay_ms};
}
static inline slotd_moment slotd_moment_every(uint64_t period_ms) {
    return (slotd_moment){.kind = SLOTD_EVERY, .ms = period_ms};
}
static inline slotd_moment slotd_moment_cron(slotd_str expression, slotd_str zone) {
    return (slotd_moment){.kind = SLOTD_CRON, .expression = expression, .zone = zone};
}
/* Sets a timer with any body. Where `why` is given, it is set to what is wrong with the moment, or to
 * NULL; the call then goes on, without the timer where something is wrong. */
uint64_t slotd_timer_set(slotd_cx *cx, slotd_str name, slotd_moment when, slotd_str content_type,
                         slotd_str body, const char **why);
/* Whether there was one. */
bool slotd_timer_cancel(slotd_cx *cx, slotd_str name);

/* A timer that is set. */
typedef struct slotd_timer {
    slotd_str name;
    /* The time that it is for next. */
    uint64_t due_ms;
    slotd_str content_type, body;
    /* How often the message for that time has failed. */
    uint32_t failures;
} slotd_timer;
/* NULL where there is none of that name. */
const slotd_timer *slotd_timer_get(const slotd_cx *cx, slotd_str name);
/* Up to `limit` timers (1,000 at most) whose name is greater than `after`, in order of the names'
 * bytes. From the first one on where `after` has no data. */
const slotd_timer *slotd_timer_list(const slotd_cx *cx, slotd_str after, uint32_t limit,
                                    size_t *count);

/* Which time of a timer a message is for. */
typedef struct slotd_firing {
    /* The time that the timer was set for. */
    uint64_t due_ms;
    /* How many later times of its period have passed, too, and have no message of their own. */
    uint64_t missed;
    /* How often it is tried, this time included: 1 the first time. 0: it is from no timer. */
    uint32_t attempt;
} slotd_firing;
/* Of the message at hand. A timer that fires once is no longer there when its message is handled, and
 * one with a period has its next time. */
slotd_firing slotd_timer_firing(const slotd_cx *cx);

/* ---- sessions that expire --------------------------------------------------------------------- */

/* Each has the session deleted at a time, with all that it has: its state and history, timers, and
 * messages that are on their way. What expires begins anew with its next message. It is said with
 * the message, or not at all; a later message may say another time, or call it off, and one that
 * says nothing of it changes nothing. Not in `migrate`.
 *
 * Where the time can't be, the call will be rejected as `bad-moment`, whatever the handler then
 * returns. */

/* At a time; one that has passed is now, once the message is durable. */
void slotd_expire_at(slotd_cx *cx, uint64_t time_ms);
/* So long after the message's time. */
void slotd_expire_after(slotd_cx *cx, uint64_t delay_ms);
/* As slotd_expire_at. Where `why` is given, it is set to what is wrong with the time, or to NULL; the
 * call then goes on, and nothing has changed where something is wrong. */
void slotd_expire_set(slotd_cx *cx, uint64_t time_ms, const char **why);
/* The session does not expire. */
void slotd_keep(slotd_cx *cx);

/* ---- messages to other sessions -------------------------------------------------------------- */

/* What is sent is kept with the message that sends it: all or nothing. The other session, which may
 * be this one and need not be there yet, handles it exactly once, with the origin SLOTD_SESSION;
 * messages to one session arrive in the order in which they were sent. One that its handler traps at
 * or rejects for now is sent again, after 1 second, 2, 4, up to 5 minutes, 20 times in all. After
 * that, or after another rejection, whoever asked for a reply is told, and else the message is kept
 * for an operator.
 *
 * One message sends 256 at most, 256 KiB a body; none in `migrate`. A service may send to those that
 * its operator names in `effects.send`: to send to another ends the call. */

/* Sends a message. `to` is "service/session". Where there can be no such address, the call will be
 * rejected as `bad-send`, whatever the handler then returns. */
void slotd_send_to(slotd_cx *cx, slotd_str to, const slotd_json *body);
/* As slotd_send_to, and has the outcome come back: as a message of this session, under the name
 * `reply_as`, of 1 to 128 bytes without control characters. The handler gets it in `answer`, or, with
 * `handle_bytes` and no `answer`, there. */
void slotd_send_for_reply(slotd_cx *cx, slotd_str to, slotd_str reply_as, const slotd_json *body);

/* A session of a service. The session's id may have slashes. */
typedef struct slotd_address {
    slotd_str service, session;
} slotd_address;
/* Of a "service/session"; where `text` has no slash, the session has no data. */
slotd_address slotd_address_of(slotd_str text);
/* Sends any body, to any address. Without data in `reply_as`, no outcome comes back. Where `why` is
 * given, it is set to what is wrong with the address or the name, or to NULL; the call then goes on,
 * without the message where something is wrong. */
void slotd_send_bytes_to(slotd_cx *cx, slotd_address to, slotd_str content_type, slotd_str body,
                         slotd_str reply_as, const char **why);

/* What a message is that comes from a session. */
typedef struct slotd_arrival {
    enum { SLOTD_NO_ARRIVAL, SLOTD_MESSAGE, SLOTD_ANSWER } kind;
    /* Of a message, who has sent it; of an answer, the session that the message was sent to. */
    slotd_address sender;
    /* How often it is tried, this time included: 1 the first time. */
    uint32_t attempt;
    /* Of a message: the sender waits for what this call replies, or why it does not. */
    bool reply_wanted;
    /* Of an answer: the name that the message was sent with. */
    slotd_str name;
    /* Of an answer: the message was not handled, and will not be. Why, is in `code` and `message`: the
     * rejection of the other's handler, or one by slotd whose code is that of the error that a client
     * would have got. The body is empty then; else it is the reply. */
    bool refused;
    slotd_str code, message;
    bool retriable;
} slotd_arrival;
/* Of the message at hand; SLOTD_NO_ARRIVAL where it comes from no session. */
slotd_arrival slotd_arrived(const slotd_cx *cx);

/* ---- requests over HTTP ---------------------------------------------------------------------- */

/* A request is kept with the message that asks for it: all or nothing. It is made after that is
 * durable, at least once: each attempt has the same header `idempotency-key`, which no other request
 * has. What comes of it is a message of this session, of the origin SLOTD_HTTP, under the request's
 * id: the answer, whatever its status, or why there is none. The function that SLOTD_HTTP_ANSWERS
 * names gets it, or, with `handle_bytes` and no such function, that.
 *
 *     slotd_request *request = slotd_request_to("POST", "https://api.example.com/v1/chat");
 *     const char *key = slotd_format("Bearer %s", slotd_secret("API_KEY"));
 *     slotd_request_header(request, "authorization", key);
 *     slotd_request_json(request, slotd_object("model", slotd_text("small")));
 *     slotd_request_show_joined(request, "token", "choices.0.delta.content");
 *     slotd_request_send(cx, "llm", request);
 *
 * One message makes 16 at most, 256 KiB a body; a session has 100 that are open. None are made in
 * `migrate`. A service may reach the hosts that its operator names in `effects.http`: a request to
 * another ends the call, as does a method, a URL or a header that can't be. */

/* How an answer is shown to the session's subscribers while it comes. */
typedef enum slotd_form {
    SLOTD_SHOW_TEXT,   /* as text, as it comes */
    SLOTD_SHOW_DATA,   /* the data of each server-sent event, one event each */
    SLOTD_SHOW_JOINED, /* the text at a path of each server-sent event's data */
    SLOTD_SHOW_NOTHING
} slotd_form;

/* A request that is being put together. What is set to -1 is as the host has it. */
typedef struct slotd_request {
    slotd_str method, url;
    /* Names and values. */
    size_t header_count;
    slotd_pair *headers;
    slotd_str body;
    /* Of one attempt, with all of its answer: 60 s, 10 minutes at most. */
    int64_t timeout_ms;
    /* Of all attempts, from this message's time on: 10 minutes, a day at most. */
    int64_t deadline_ms;
    /* How often it is tried: 5 times, 20 at most. */
    int64_t attempts;
    /* How many redirects are followed: 5, 10 at most. With 0 a redirect is an answer. */
    int64_t redirects;
    /* Of the answer's body: 1 MiB, which is the most. */
    int64_t answer_bytes;
    /* Headers of the answer that are kept beside those that always are. */
    size_t kept_count;
    slotd_str *kept;
    slotd_form form;
    /* Of the events that show it, and the path into them. */
    slotd_str kind, path;
} slotd_request;

/* `method` is "GET", "POST", .. */
slotd_request *slotd_request_to(slotd_str method, slotd_str url);
void slotd_request_header(slotd_request *request, slotd_str name, slotd_str value);
/* The body, with the header `content-type`. */
void slotd_request_json(slotd_request *request, const slotd_json *body);
void slotd_request_body(slotd_request *request, slotd_str content_type, slotd_str body);
/* Has the answer keep a header, by name or by "prefix*". */
void slotd_request_keep(slotd_request *request, slotd_str header);
/* Each shows the answer to the session's subscribers while it comes, by events of this kind. */
void slotd_request_show(slotd_request *request, slotd_str kind);
void slotd_request_show_data(slotd_request *request, slotd_str kind);
/* The answer's body is then all of the text at that path, joined. */
void slotd_request_show_joined(slotd_request *request, slotd_str kind, slotd_str path);
/* What stands for the operator's secret of this name, in a URL or the value of a header. */
const char *slotd_secret(slotd_str name);

/* Has a request made once this message is durable, in place of one of this id that is open. The id
 * has 1 to 128 bytes and no control characters. Where it or the options can't be, the call will be
 * rejected as `bad-request`, whatever the handler then returns. */
void slotd_request_send(slotd_cx *cx, slotd_str id, const slotd_request *request);
/* As slotd_request_send. Where `why` is given, it is set to what is wrong with them, or to
 * NULL; the call then goes on, without the request where something is wrong. */
void slotd_request_try(slotd_cx *cx, slotd_str id, const slotd_request *request,
                       const char **why);
/* Ends a request: its answer will not come. What was sent may have its effect. Whether there was
 * one. */
bool slotd_request_cancel(slotd_cx *cx, slotd_str id);
/* The ids of the requests that are open, in order of their bytes. */
const slotd_str *slotd_request_open(const slotd_cx *cx, size_t *count);

/* What came of a request. The message's body and content type are the answer's. */
typedef struct slotd_http_answer {
    /* Without data: the message does not come of a request. */
    slotd_str id;
    /* There is no answer, or it did not come to its end. Why, is in `code`, in kebab-case (`refused`,
     * `invalid`, `secret-unknown`, `busy`, `dns`, `connect`, `tls`, `timeout`, `too-large`,
     * `redirect`, `protocol`, `deadline`), and in `reason`, a sentence. */
    bool failed;
    slotd_str code, reason;
    /* 0: there is no answer. */
    uint16_t status;
    /* Of those that are kept, names (in lower case) and values. */
    size_t header_count;
    const slotd_pair *headers;
    /* How often the request was made. */
    uint32_t attempts;
    /* How often this message is tried, this time included: 1 the first time. */
    uint32_t attempt;
} slotd_http_answer;
/* Of the message at hand. */
slotd_http_answer slotd_http_answered(const slotd_cx *cx);
/* Whether it is whole and has a status from 200 to 299. */
bool slotd_http_success(const slotd_http_answer *answer);
/* The first header of that name, in whatever case. Its `data` is NULL where there is none. */
slotd_str slotd_http_header(const slotd_http_answer *answer, slotd_str name);

/* ---- the end, and who is there ---------------------------------------------------------------- */

/* Closes the session with this message: it takes no more messages, of whomever, and is still read and
 * queried. Its timers and its requests over HTTP end, and outcomes of what it has sent are no longer
 * heard of. What it has sent goes on its way, and it still expires when it was to. Not in
 * `migrate`. */
void slotd_close(slotd_cx *cx);

/* Has the handler told when the session's first subscriber comes, and when the last one has been gone
 * for some seconds; or not any more. It is a message of this session, without a body, to the function
 * that SLOTD_PRESENCE names, or, with `handle_bytes` and no such function, to that. One that the
 * handler fails is not tried again. Not in `migrate`. */
void slotd_watch_subscribers(slotd_cx *cx, bool wanted);

typedef enum slotd_presence {
    SLOTD_NO_PRESENCE, /* the message does not say so */
    SLOTD_PRESENT,
    SLOTD_ABSENT
} slotd_presence;
/* Of the message at hand. */
slotd_presence slotd_presence_told(const slotd_cx *cx);

/* ---- who the client is ------------------------------------------------------------------------ */

/* Who a client was shown to be. What it says of itself, cx->sender, is checked by nobody; this was, by a
 * token. It is kept with the message. */
typedef struct slotd_client {
    /* How it was shown: `token` by a token with a name, which is the subject; `session` by a token that
     * slotd has minted for this session; `root` by the listener's own; else the name of the issuer of
     * its token, as the operator's policy has it. Without data: nobody was shown to be it, or the message
     * is not from a client. */
    slotd_str kind;
    /* Who it is, among those of its kind. Without data: nobody in particular. */
    slotd_str subject;
    /* What is said of it besides, of what the operator has named: names and values. */
    size_t claim_count;
    const slotd_pair *claims;
} slotd_client;
/* Of the client that has sent the message at hand, or that asks the query. */
slotd_client slotd_client_of(const slotd_cx *cx);
/* The value of a claim. Its `data` is NULL where there is none. */
slotd_str slotd_claim(const slotd_client *client, slotd_str name);

/* ---- the log -------------------------------------------------------------------------------- */

typedef enum slotd_level {
    SLOTD_TRACE,
    SLOTD_DEBUG,
    SLOTD_INFO,
    SLOTD_WARN,
    SLOTD_ERROR
} slotd_level;
/* Writes a line to the node's log, as for `printf`; never part of what a message does. 100 lines a
 * call, 2,048 bytes each. stdout and stderr go there too, at levels info and warn. */
void slotd_log(slotd_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* slotd_trap(format, ...): ends the call in a trap, for what should never be. */
#define slotd_trap(...) slotd_trap_at(__FILE__, __LINE__, __func__, __VA_ARGS__)
_Noreturn void slotd_trap_at(const char *file, int line, const char *function, const char *format,
                             ...) __attribute__((format(printf, 4, 5)));

/* ---- the handler ---------------------------------------------------------------------------- */

typedef struct slotd_handler {
    /* Applies a message, with JSON in; or, if `handle_bytes` is given instead, with any body. */
    slotd_result (*handle)(slotd_cx *cx, const slotd_json *message);
    slotd_result (*handle_bytes)(slotd_cx *cx, slotd_str body);
    /* Applies what came of a message that was sent for a reply: a message like any other, with what
     * that may do. `reply` is what the other handler replied; NULL where answer->refused. Without one,
     * answers are rejected as `no-answers`, unless there is a `handle_bytes`, which then gets them. */
    slotd_result (*answer)(slotd_cx *cx, const slotd_arrival *answer, const slotd_json *reply);
    /* Answers a question from the state; it can't change anything. Without one, questions are
     * rejected as `no-queries`. */
    slotd_result (*query)(const slotd_cx *cx, const slotd_json *query);
    slotd_result (*query_bytes)(const slotd_cx *cx, slotd_str body);
    /* Brings a session's state from the shape that version `from` left to this version's. Called
     * once a session, in the transaction of its first message under this version, never for a new
     * session. A reason that is not NULL leaves the session on `from`, working. Of `cx` only the
     * state can be used. It is called on the way back too: `from` may be a later version. Without
     * one, sessions of earlier versions and of this one are taken over as they are, and of no later
     * one. */
    const char *(*migrate)(slotd_cx *cx, const char *from);
} slotd_handler;

extern const slotd_handler slotd_this_handler;

/* Once per plugin: SLOTD_HANDLER(.handle = my_handle, .query = my_query) */
#define SLOTD_HANDLER(...) const slotd_handler slotd_this_handler = {__VA_ARGS__};

/* Beside it, where it makes requests over HTTP: SLOTD_HTTP_ANSWERS(my_answer) names
 *
 *     slotd_result my_answer(slotd_cx *cx, const slotd_http_answer *answer, slotd_str body);
 *
 * which applies what came of one: a message like any other, with what that may do. Without it,
 * answers are rejected as `no-requests`, unless there is a `handle_bytes`, which then gets them. And
 * where it watches its subscribers, SLOTD_PRESENCE(my_presence) names
 *
 *     slotd_result my_presence(slotd_cx *cx, bool present);
 *
 * They are not in SLOTD_HANDLER so that a component without them does not ask for what they need, and
 * runs on a slotd that does not have it. */
#define SLOTD_HTTP_ANSWERS(function) \
    const slotd_http_handler slotd_this_http_handler = {function, slotd_http_answered};
#define SLOTD_PRESENCE(function) \
    const slotd_presence_handler slotd_this_presence_handler = {function, slotd_presence_told};

typedef struct slotd_http_handler {
    slotd_result (*handle)(slotd_cx *cx, const slotd_http_answer *answer, slotd_str body);
    slotd_http_answer (*answered)(const slotd_cx *cx);
} slotd_http_handler;
extern const slotd_http_handler slotd_this_http_handler;

typedef struct slotd_presence_handler {
    slotd_result (*handle)(slotd_cx *cx, bool present);
    slotd_presence (*told)(const slotd_cx *cx);
} slotd_presence_handler;
extern const slotd_presence_handler slotd_this_presence_handler;

/* ---- what makes the above convenient -------------------------------------------------------- */

/* Where in your source the last call into the SDK was, for when that call traps. */
extern const char *slotd_here;
static inline void slotd_is_at(const char *place) { slotd_here = place; }

static inline slotd_str slotd_str_same(slotd_str text) { return text; }
static inline slotd_str slotd_str_of(const char *text) {
    return (slotd_str){text, text ? __builtin_strlen(text) : 0};
}
/* A slotd_str of one, or of a C string. */
#define SLOTD_STR(text)                                                                            \
    _Generic((text), slotd_str: slotd_str_same, char *: slotd_str_of, const char *: slotd_str_of)( \
        text)

#ifndef SLOTD_PLAIN
#define SLOTD_LINE__(line) #line
#define SLOTD_LINE_(line) SLOTD_LINE__(line)
#define SLOTD_HERE_ slotd_is_at(__FILE__ ":" SLOTD_LINE_(__LINE__))

#define slotd_equal(a, b) slotd_equal(SLOTD_STR(a), SLOTD_STR(b))
#define slotd_starts_with(text, prefix) slotd_starts_with(SLOTD_STR(text), SLOTD_STR(prefix))
#define slotd_from(text, from) slotd_from(SLOTD_STR(text), from)
#define slotd_format(...) (SLOTD_HERE_, slotd_format(__VA_ARGS__))
#define slotd_alloc(size) (SLOTD_HERE_, slotd_alloc(size))
#define slotd_copy(text) (SLOTD_HERE_, slotd_copy(SLOTD_STR(text)))
#define slotd_utf8(bytes) (SLOTD_HERE_, slotd_utf8(SLOTD_STR(bytes)))
#define slotd_member(object, name) slotd_member(object, SLOTD_STR(name))
#define slotd_text(text) (SLOTD_HERE_, slotd_text(SLOTD_STR(text)))
#define slotd_object(...) \
    (SLOTD_HERE_, slotd_object(__VA_ARGS__ __VA_OPT__(, ) (const char *)NULL, (void *)NULL))
#define slotd_put(object, name, value) (SLOTD_HERE_, slotd_put(object, SLOTD_STR(name), value))
#define slotd_push(array, value) (SLOTD_HERE_, slotd_push(array, value))
#define slotd_parse(text, why) (SLOTD_HERE_, slotd_parse(SLOTD_STR(text), why))
#define slotd_write(value) (SLOTD_HERE_, slotd_write(value))
#define slotd_reply(value) (SLOTD_HERE_, slotd_reply(value))
#define slotd_reply_bytes(content_type, body) \
    (SLOTD_HERE_, slotd_reply_bytes(SLOTD_STR(content_type), SLOTD_STR(body)))
#define slotd_reject(...) (SLOTD_HERE_, slotd_reject(__VA_ARGS__))
#define slotd_reject_for_now(...) (SLOTD_HERE_, slotd_reject_for_now(__VA_ARGS__))
#define slotd_need(cx, message, name) (SLOTD_HERE_, slotd_need(cx, message, SLOTD_STR(name)))
#define slotd_need_text(cx, message, name) \
    (SLOTD_HERE_, slotd_need_text(cx, message, SLOTD_STR(name)))
#define slotd_need_u64(cx, message, name) \
    (SLOTD_HERE_, slotd_need_u64(cx, message, SLOTD_STR(name)))
#define slotd_need_i64(cx, message, name) \
    (SLOTD_HERE_, slotd_need_i64(cx, message, SLOTD_STR(name)))
#define slotd_need_f64(cx, message, name) \
    (SLOTD_HERE_, slotd_need_f64(cx, message, SLOTD_STR(name)))
#define slotd_need_bool(cx, message, name) \
    (SLOTD_HERE_, slotd_need_bool(cx, message, SLOTD_STR(name)))
#define slotd_get(cx, key) (SLOTD_HERE_, slotd_get(cx, SLOTD_STR(key)))
#define slotd_get_u64(cx, key, otherwise) (SLOTD_HERE_, slotd_get_u64(cx, SLOTD_STR(key), otherwise))
#define slotd_get_i64(cx, key, otherwise) (SLOTD_HERE_, slotd_get_i64(cx, SLOTD_STR(key), otherwise))
#define slotd_get_text(cx, key) (SLOTD_HERE_, slotd_get_text(cx, SLOTD_STR(key)))
#define slotd_get_bytes(cx, key) (SLOTD_HERE_, slotd_get_bytes(cx, SLOTD_STR(key)))
#define slotd_set(cx, key, value) (SLOTD_HERE_, slotd_set(cx, SLOTD_STR(key), value))
#define slotd_set_bytes(cx, key, value) \
    (SLOTD_HERE_, slotd_set_bytes(cx, SLOTD_STR(key), SLOTD_STR(value)))
#define slotd_delete(cx, key) (SLOTD_HERE_, slotd_delete(cx, SLOTD_STR(key)))
#define slotd_scan_all(cx, prefix) (SLOTD_HERE_, slotd_scan_all(cx, SLOTD_STR(prefix)))
#define slotd_scan_after(cx, prefix, after) \
    (SLOTD_HERE_, slotd_scan_after(cx, SLOTD_STR(prefix), SLOTD_STR(after)))
#define slotd_page(cx, prefix, after, limit, count) \
    (SLOTD_HERE_, slotd_page(cx, SLOTD_STR(prefix), SLOTD_STR(after), limit, count))
#define slotd_next(scan) (SLOTD_HERE_, slotd_next(scan))
#define slotd_emit(cx, kind, value) (SLOTD_HERE_, slotd_emit(cx, SLOTD_STR(kind), value))
#define slotd_emit_bytes(cx, kind, content_type, body)                                \
    (SLOTD_HERE_, slotd_emit_bytes(cx, SLOTD_STR(kind), SLOTD_STR(content_type), SLOTD_STR(body)))
#define slotd_notify(cx, kind, value) (SLOTD_HERE_, slotd_notify(cx, SLOTD_STR(kind), value))
#define slotd_notify_bytes(cx, kind, content_type, body)                                \
    (SLOTD_HERE_, slotd_notify_bytes(cx, SLOTD_STR(kind), SLOTD_STR(content_type), SLOTD_STR(body)))
#define slotd_timer_at(cx, name, time_ms, body) \
    (SLOTD_HERE_, slotd_timer_at(cx, SLOTD_STR(name), time_ms, body))
#define slotd_timer_after(cx, name, delay_ms, body) \
    (SLOTD_HERE_, slotd_timer_after(cx, SLOTD_STR(name), delay_ms, body))
#define slotd_timer_every(cx, name, period_ms, body) \
    (SLOTD_HERE_, slotd_timer_every(cx, SLOTD_STR(name), period_ms, body))
#define slotd_timer_cron(cx, name, expression, zone, body)                                \
    (SLOTD_HERE_,                                                                         \
     slotd_timer_cron(cx, SLOTD_STR(name), SLOTD_STR(expression), SLOTD_STR(zone), body))
#define slotd_moment_cron(expression, zone) \
    slotd_moment_cron(SLOTD_STR(expression), SLOTD_STR(zone))
#define slotd_timer_set(cx, name, when, content_type, body, why)                          \
    (SLOTD_HERE_, slotd_timer_set(cx, SLOTD_STR(name), when, SLOTD_STR(content_type),     \
                                  SLOTD_STR(body), why))
#define slotd_timer_cancel(cx, name) (SLOTD_HERE_, slotd_timer_cancel(cx, SLOTD_STR(name)))
#define slotd_timer_get(cx, name) (SLOTD_HERE_, slotd_timer_get(cx, SLOTD_STR(name)))
#define slotd_timer_list(cx, after, limit, count) \
    (SLOTD_HERE_, slotd_timer_list(cx, SLOTD_STR(after), limit, count))
#define slotd_timer_firing(cx) (SLOTD_HERE_, slotd_timer_firing(cx))
#define slotd_send_to(cx, to, body) (SLOTD_HERE_, slotd_send_to(cx, SLOTD_STR(to), body))
#define slotd_send_for_reply(cx, to, reply_as, body) \
    (SLOTD_HERE_, slotd_send_for_reply(cx, SLOTD_STR(to), SLOTD_STR(reply_as), body))
#define slotd_address_of(text) slotd_address_of(SLOTD_STR(text))
#define slotd_send_bytes_to(cx, to, content_type, body, reply_as, why)                    \
    (SLOTD_HERE_, slotd_send_bytes_to(cx, to, SLOTD_STR(content_type), SLOTD_STR(body),   \
                                      SLOTD_STR(reply_as), why))
#define slotd_arrived(cx) (SLOTD_HERE_, slotd_arrived(cx))
#define slotd_request_to(method, url) \
    (SLOTD_HERE_, slotd_request_to(SLOTD_STR(method), SLOTD_STR(url)))
#define slotd_request_header(request, name, value) \
    (SLOTD_HERE_, slotd_request_header(request, SLOTD_STR(name), SLOTD_STR(value)))
#define slotd_request_json(request, body) (SLOTD_HERE_, slotd_request_json(request, body))
#define slotd_request_body(request, content_type, body) \
    (SLOTD_HERE_, slotd_request_body(request, SLOTD_STR(content_type), SLOTD_STR(body)))
#define slotd_request_keep(request, header) \
    (SLOTD_HERE_, slotd_request_keep(request, SLOTD_STR(header)))
#define slotd_request_show(request, kind) \
    (SLOTD_HERE_, slotd_request_show(request, SLOTD_STR(kind)))
#define slotd_request_show_data(request, kind) \
    (SLOTD_HERE_, slotd_request_show_data(request, SLOTD_STR(kind)))
#define slotd_request_show_joined(request, kind, path) \
    (SLOTD_HERE_, slotd_request_show_joined(request, SLOTD_STR(kind), SLOTD_STR(path)))
#define slotd_secret(name) (SLOTD_HERE_, slotd_secret(SLOTD_STR(name)))
#define slotd_request_send(cx, id, request) \
    (SLOTD_HERE_, slotd_request_send(cx, SLOTD_STR(id), request))
#define slotd_request_try(cx, id, request, why) \
    (SLOTD_HERE_, slotd_request_try(cx, SLOTD_STR(id), request, why))
#define slotd_request_cancel(cx, id) (SLOTD_HERE_, slotd_request_cancel(cx, SLOTD_STR(id)))
#define slotd_request_open(cx, count) (SLOTD_HERE_, slotd_request_open(cx, count))
#define slotd_http_answered(cx) (SLOTD_HERE_, slotd_http_answered(cx))
#define slotd_http_header(answer, name) slotd_http_header(answer, SLOTD_STR(name))
#define slotd_close(cx) (SLOTD_HERE_, slotd_close(cx))
#define slotd_watch_subscribers(cx, wanted) (SLOTD_HERE_, slotd_watch_subscribers(cx, wanted))
#define slotd_presence_told(cx) (SLOTD_HERE_, slotd_presence_told(cx))
#define slotd_client_of(cx) (SLOTD_HERE_, slotd_client_of(cx))
#define slotd_claim(client, name) slotd_claim(client, SLOTD_STR(name))
/* So that the log says where. */
#define abort() slotd_trap("abort() was called")
#endif

#endif
