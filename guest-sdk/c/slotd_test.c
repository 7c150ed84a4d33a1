/* Runs a handler natively, with the host's rules. */
#ifndef __wasm__
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "internal.h"

#include "slotd_test.h"

#include <ctype.h>
#include <errno.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#endif

/* The host's limits, as its own defaults have them. */
enum {
    HOST_CALLS_MAX = 100000,
    KEY_BYTES_MAX = 1024,
    VALUE_BYTES_MAX = 1024 * 1024,
    WRITE_BYTES_MAX = 4 * 1024 * 1024,
    SCAN_PAIRS_MAX = 1000,
    SCAN_BYTES_MAX = 4 * 1024 * 1024,
    REPLY_BYTES_MAX = 1024 * 1024,
    EVENTS_MAX = 256,
    EVENT_BYTES_MAX = 1024 * 1024,
    NOTIFIED_MAX = 64,
    NOTIFIED_BYTES_MAX = 256 * 1024,
    TIMERS_MAX = 1000,
    TIMER_NAME_BYTES_MAX = 128,
    TIMER_BYTES_MAX = 1024 * 1024,
    TIMER_BODY_BYTES_MAX = 64 * 1024,
    TIMER_CHANGES_MAX = 256,
    TIMER_PERIOD_MIN_MS = 100,
    TIMER_CRON_BYTES_MAX = 128,
    ATTEMPTS_MAX = 20,
    RETRY_MIN_MS = 1000,
    RETRY_MAX_MS = 5 * 60 * 1000,
    /* Of one slotd_advance: a period of milliseconds must not make a test endless. */
    FIRED_MAX = 100000,
    SENDS_MAX = 256,
    SEND_BODY_BYTES_MAX = 256 * 1024,
    SEND_NAME_BYTES_MAX = 128,
    SERVICE_BYTES_MAX = 64,
    SESSION_BYTES_MAX = 256,
    REQUESTS_MAX = 16,
    REQUESTS_OPEN_MAX = 100,
    REQUESTS_OPEN_BYTES_MAX = 4 * 1024 * 1024,
    REQUEST_BODY_BYTES_MAX = 256 * 1024,
    REQUEST_ID_BYTES_MAX = 128,
    REQUEST_METHOD_BYTES_MAX = 32,
    /* Of its method, URL and headers. */
    REQUEST_HEAD_BYTES_MAX = 32 * 1024,
    REQUEST_HEADERS_MAX = 64,
    REQUEST_TIMEOUT_MAX_MS = 600000,
    REQUEST_DEADLINE_MAX_MS = 86400000,
    REDIRECTS_MAX = 10,
    ANSWER_BYTES_MAX = 1024 * 1024,
    KEPT_HEADERS_MAX = 16,
    KEPT_HEADER_NAME_BYTES_MAX = 64,
    STREAM_PATH_BYTES_MAX = 256,
    LOG_LINES_MAX = 100,
    LOG_LINE_BYTES_MAX = 2048,
};

/* The last time that a timer can be set for, or a session can expire at: the year 9000 or so. */
#define TIMER_MS_MAX 221845392000000

/* ---- memory and the test under way ----------------------------------------------------------- */

/* What a test is given. */
static slotd_arena test_arena;

static struct test {
    const char *name;
    void (*run)(void);
    struct test *next;
} *tests, **tests_end = &tests;

static jmp_buf test_ends;
static bool test_under_way;

void slotd_add_test(const char *name, void (*run)(void)) {
    struct test *test = malloc(sizeof *test);
    if (!test) abort();
    *test = (struct test){name, run, NULL};
    *tests_end = test;
    tests_end = &test->next;
}

_Noreturn void slotd_failed(const char *file, int line, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "%s:%d: failed: ", file, line);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    if (test_under_way) longjmp(test_ends, 1);
    exit(1);
}

static char *keep_bytes(const void *data, size_t size) {
    char *copy = slotd_arena_get(&test_arena, size, 1);
    if (size) memcpy(copy, data, size);
    return copy;
}

static slotd_str keep(slotd_str text) {
    if (!text.data) return text;
    return (slotd_str){keep_bytes(text.data, text.size), text.size};
}

/* The JSON of what a test is given, or NULL. */
static const slotd_json *keep_json(slotd_str text) {
    if (!text.data) return NULL;
    return slotd_parse_here(&test_arena, keep_bytes(text.data, text.size), text.size, NULL);
}

static void *more(void *items, size_t count, size_t size) {
    /* Doubles at each power of two. */
    if (count & (count - 1)) return items;
    return slotd_arena_grow(&test_arena, items, count * size, (count ? count * 2 : 1) * size,
                            _Alignof(max_align_t));
}

/* ---- the state: pairs in order of their keys' bytes ------------------------------------------ */

typedef struct slotd_store {
    slotd_pair *pairs;
    size_t count, capacity;
} store;

static int compare(slotd_str a, slotd_str b) {
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size ? memcmp(a.data, b.data, size) : 0;
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

/* Where a key is, or would be. */
static size_t place_of(const store *store, slotd_str key, bool *there) {
    size_t low = 0, high = store->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (compare(store->pairs[middle].key, key) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *there = low < store->count && slotd_equal(store->pairs[low].key, key);
    return low;
}

static void store_set(store *store, slotd_str key, slotd_str value) {
    bool there;
    size_t place = place_of(store, key, &there);
    if (!there) {
        if (store->count == store->capacity) {
            size_t capacity = store->capacity ? store->capacity * 2 : 16;
            store->pairs = slotd_arena_grow(
                &test_arena, store->pairs, store->capacity * sizeof *store->pairs,
                capacity * sizeof *store->pairs, _Alignof(slotd_pair));
            store->capacity = capacity;
        }
        memmove(store->pairs + place + 1, store->pairs + place,
                (store->count - place) * sizeof *store->pairs);
        store->count++;
        store->pairs[place].key = keep(key);
    }
    store->pairs[place].value = keep(value.data ? value : (slotd_str){"", 0});
}

static void store_delete(store *store, slotd_str key) {
    bool there;
    size_t place = place_of(store, key, &there);
    if (!there) return;
    store->count--;
    memmove(store->pairs + place, store->pairs + place + 1,
            (store->count - place) * sizeof *store->pairs);
}

/* ---- the host -------------------------------------------------------------------------------- */

static struct {
    slotd_session *session;
    slotd_call_kind kind;
    jmp_buf ends;
    slotd_str why;
    size_t calls, written, lines, events, event_bytes, notified, notified_bytes, timer_changes, sends;
    size_t requests;
    bool closes;
    /* Of a timer's message; else no attempt. */
    slotd_firing firing;
    /* Of a message from a session. */
    slotd_arrival arrival;
    /* Of the answer to a request. */
    slotd_http_answer answer;
    slotd_presence presence;
    slotd_client client;
} host;

/* Ends the call as the host does: with the place, since there is none who would say it otherwise. */
static __attribute__((format(printf, 1, 2))) _Noreturn void refuse(const char *format, ...) {
    char why[512];
    int at = slotd_here ? snprintf(why, 256, "%s: ", slotd_here) : 0;
    if (at > 255) at = 255;
    va_list args;
    va_start(args, format);
    vsnprintf(why + at, sizeof why - (size_t)at, format, args);
    va_end(args);
    slotd_str text = slotd_str_of(why);
    host.lines = 0;
    slotd_host_log(SLOTD_ERROR, text);
    slotd_host_trap(text);
}

static void count_call(void) {
    if (!host.session) {
        fprintf(stderr, "%s: the state, events, timers, messages, requests and the log can be used in a call only\n",
                slotd_here ? slotd_here : "");
        exit(1);
    }
    if (++host.calls > HOST_CALLS_MAX) refuse("limit: more than %d host calls", HOST_CALLS_MAX);
}

static void check_key(slotd_str key) {
    if (key.size > KEY_BYTES_MAX) refuse("limit: a key of %zu bytes", key.size);
}

static slotd_str give(slotd_str text) {
    char *copy = slotd_arena_get(slotd_host_arena, text.size, 1);
    if (text.size) memcpy(copy, text.data, text.size);
    return (slotd_str){copy, text.size};
}

slotd_str slotd_host_get(slotd_str key) {
    count_call();
    check_key(key);
    bool there;
    size_t place = place_of(host.session->store, key, &there);
    return there ? give(host.session->store->pairs[place].value) : (slotd_str){NULL, 0};
}

static void before_write(slotd_str key, size_t size) {
    count_call();
    if (host.kind == SLOTD_QUERY) refuse("a query may not write state");
    check_key(key);
    if (size > VALUE_BYTES_MAX) refuse("limit: a value of %zu bytes", size);
    host.written += key.size + size;
    if (host.written > WRITE_BYTES_MAX)
        refuse("limit: more than %d bytes written", WRITE_BYTES_MAX);
}

void slotd_host_set(slotd_str key, slotd_str value) {
    before_write(key, value.size);
    store_set(host.session->store, key, value);
}

void slotd_host_delete(slotd_str key) {
    before_write(key, 0);
    store_delete(host.session->store, key);
}

slotd_pair *slotd_host_scan(slotd_str prefix, slotd_str after, uint32_t limit, size_t *count) {
    count_call();
    if (limit > SCAN_PAIRS_MAX) limit = SCAN_PAIRS_MAX;
    const store *store = host.session->store;
    bool there;
    size_t place = place_of(store, prefix, &there);
    if (after.data && compare(after, prefix) >= 0) {
        place = place_of(store, after, &there);
        place += there;
    }
    slotd_pair *pairs = slotd_arena_get(slotd_host_arena, limit * sizeof *pairs,
                                        _Alignof(slotd_pair));
    size_t bytes = 0;
    for (*count = 0; *count < limit && place < store->count; place++) {
        slotd_pair pair = store->pairs[place];
        if (!slotd_starts_with(pair.key, prefix)) break;
        bytes += pair.key.size + pair.value.size;
        if (*count && bytes > SCAN_BYTES_MAX) break;
        pairs[(*count)++] = (slotd_pair){give(pair.key), give(pair.value)};
    }
    return pairs;
}

static void only_handle(const char *does) {
    count_call();
    if (host.kind != SLOTD_HANDLE) refuse("only `handle` may %s", does);
}

static void check_kind(slotd_str kind) {
    if (!kind.size || strcspn(kind.data, " \t\r\n") < kind.size)
        refuse("\"%.*s\" is no kind of event: one word", SLOTD_ARG(kind));
    if (slotd_equal(kind, SLOTD_STR("error")) || slotd_starts_with(kind, SLOTD_STR("slotd.")))
        refuse("the event kind \"%.*s\" is reserved: slotd uses it itself", SLOTD_ARG(kind));
}

static void check_event(const char *does, slotd_str kind) {
    only_handle(does);
    check_kind(kind);
}

static slotd_event *add_event(slotd_event *events, size_t *count, uint64_t seq, slotd_str kind,
                              slotd_str content_type, slotd_str body) {
    events = more(events, *count, sizeof *events);
    events[(*count)++] = (slotd_event){
        .seq = seq,
        .kind = keep(kind),
        .content_type = keep(content_type),
        .body = keep(body.data ? body : (slotd_str){"", 0}),
        .json = keep_json(body),
    };
    return events;
}

void slotd_host_emit(slotd_str kind, slotd_str content_type, slotd_str body) {
    check_event("emit events", kind);
    host.event_bytes += kind.size + content_type.size + body.size;
    if (host.events++ == EVENTS_MAX || host.event_bytes > EVENT_BYTES_MAX)
        refuse("limit: more than %d events or %d bytes of them", EVENTS_MAX, EVENT_BYTES_MAX);
    slotd_session *session = host.session;
    session->events = add_event(session->events, &session->event_count, session->seq + 1, kind,
                                content_type, body);
}

void slotd_host_notify(slotd_str kind, slotd_str content_type, slotd_str body) {
    check_event("send ephemeral events", kind);
    host.notified_bytes += kind.size + content_type.size + body.size;
    if (host.notified++ == NOTIFIED_MAX || host.notified_bytes > NOTIFIED_BYTES_MAX)
        refuse("limit: more than %d ephemeral events or %d bytes of them", NOTIFIED_MAX,
               NOTIFIED_BYTES_MAX);
    slotd_session *session = host.session;
    session->notified =
        add_event(session->notified, &session->notified_count, session->seq + 1, kind,
                  content_type, body);
}

/* ---- when it expires ------------------------------------------------------------------------- */

slotd_str slotd_host_expire(uint64_t at_ms) {
    only_handle("have the session expire");
    if (at_ms > TIMER_MS_MAX)
        return give(slotd_str_of(slotd_format(
            "%llu is no time at which a session can expire: the last is %llu ms since the Unix epoch",
            (unsigned long long)at_ms, (unsigned long long)TIMER_MS_MAX)));
    slotd_session *session = host.session;
    session->expires_ms = at_ms > session->time_ms ? at_ms : session->time_ms;
    return (slotd_str){NULL, 0};
}

void slotd_host_keep(void) {
    only_handle("have the session expire");
    host.session->expires_ms = 0;
}

/* ---- timers ---------------------------------------------------------------------------------- */

/* Where a timer is, or would be. */
static size_t timer_place(const slotd_session *session, slotd_str name, bool *there) {
    const slotd_set_timer *timers = session->timers;
    size_t place = 0;
    while (place < session->timer_count && compare(timers[place].name, name) < 0) place++;
    *there = place < session->timer_count && slotd_equal(timers[place].name, name);
    return place;
}

static slotd_set_timer *copy_of_timers(const slotd_session *session, size_t count) {
    slotd_set_timer *timers = slotd_arena_get(&test_arena, count * sizeof *timers,
                                              _Alignof(slotd_set_timer));
    if (session->timer_count)
        memcpy(timers, session->timers, session->timer_count * sizeof *timers);
    return timers;
}

/* A failed call's timers are as they were before it, so no list of them is changed in place. */
static void put_timer(slotd_session *session, slotd_set_timer timer) {
    bool there;
    size_t place = timer_place(session, timer.name, &there);
    slotd_set_timer *timers = copy_of_timers(session, session->timer_count + 1);
    if (!there) {
        memmove(timers + place + 1, timers + place,
                (session->timer_count - place) * sizeof *timers);
        session->timer_count++;
    }
    timers[place] = timer;
    session->timers = timers;
}

static bool drop_timer(slotd_session *session, slotd_str name) {
    bool there;
    size_t place = timer_place(session, name, &there);
    if (!there) return false;
    slotd_set_timer *timers = copy_of_timers(session, session->timer_count);
    session->timer_count--;
    memmove(timers + place, timers + place + 1, (session->timer_count - place) * sizeof *timers);
    session->timers = timers;
    return true;
}

static uint64_t plus(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static bool is_control(slotd_str text) {
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = (unsigned char)text.data[i], next = (unsigned char)text.data[i + 1];
        /* The second block of them begins at U+0080. */
        if (c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next < 0xa0)) return true;
    }
    return false;
}

static void before_change(const char *does, slotd_str name) {
    only_handle(does);
    if (!name.size || name.size > TIMER_NAME_BYTES_MAX)
        refuse("the name of a timer must have 1 to %d bytes; this one has %zu",
               TIMER_NAME_BYTES_MAX, name.size);
    if (is_control(give(name)))
        refuse("the name of a timer has no control characters, and \"%.*s\" has",
               SLOTD_ARG(name));
    if (++host.timer_changes > TIMER_CHANGES_MAX)
        refuse("limit: more than %d timers set or cancelled", TIMER_CHANGES_MAX);
}

static size_t fields_of(slotd_str expression) {
    size_t fields = 0;
    for (size_t i = 0; i < expression.size; i++) {
        bool is_space = strchr(" \t", expression.data[i]) != NULL;
        fields += !is_space && (!i || strchr(" \t", expression.data[i - 1]) != NULL);
    }
    return fields;
}

/* Nobody here knows what the expression names: the first whole minute is a time that it could. */
static uint64_t next_minute(uint64_t time_ms) { return plus(time_ms, 60000 - time_ms % 60000); }

/* The first time, which is not before `earliest_ms`; NULL: it is one. */
static const char *first_time(slotd_moment when, uint64_t now_ms, uint64_t earliest_ms,
                              uint64_t *due_ms) {
    *due_ms = when.kind == SLOTD_AT ? when.ms : plus(now_ms, when.ms);
    if (when.kind == SLOTD_EVERY && when.ms < TIMER_PERIOD_MIN_MS)
        return slotd_format("a period has %d ms at least, not %llu", TIMER_PERIOD_MIN_MS,
                            (unsigned long long)when.ms);
    if (when.kind == SLOTD_CRON) {
        if (when.expression.size > TIMER_CRON_BYTES_MAX || when.zone.size > TIMER_CRON_BYTES_MAX)
            return slotd_format("a cron expression and a time zone may have %d bytes each",
                                TIMER_CRON_BYTES_MAX);
        size_t fields = fields_of(when.expression);
        if (fields != 5)
            return slotd_format("a cron expression has five fields (minute, hour, day of the "
                                "month, month, day of the week); \"%.*s\" has %zu",
                                SLOTD_ARG(when.expression), fields);
        if (!when.zone.size) return "there is no time zone \"\"; an example is \"Europe/Berlin\"";
        *due_ms = next_minute(now_ms);
    }
    if (*due_ms > TIMER_MS_MAX)
        return slotd_format("%llu is no time that a timer can be set for: the last is %llu ms "
                            "since the Unix epoch",
                            (unsigned long long)*due_ms, (unsigned long long)TIMER_MS_MAX);
    if (*due_ms < earliest_ms) *due_ms = earliest_ms;
    return NULL;
}

slotd_str slotd_host_schedule(slotd_str name, slotd_moment when, slotd_str content_type,
                              slotd_str body, uint64_t *due_ms) {
    before_change("set timers", name);
    if (body.size > TIMER_BODY_BYTES_MAX)
        refuse("limit: timers: a body may have %d bytes; this one has %zu", TIMER_BODY_BYTES_MAX,
               body.size);
    slotd_session *session = host.session;
    /* A timer that sets itself again is a period, however it does it. */
    uint64_t earliest_ms = plus(session->time_ms, host.firing.attempt ? TIMER_PERIOD_MIN_MS : 0);
    const char *why = first_time(when, session->time_ms, earliest_ms, due_ms);
    if (why) return give(slotd_str_of(why));
    slotd_set_timer timer = {
        .name = keep(name),
        .content_type = keep(content_type),
        .body = keep(body.data ? body : (slotd_str){"", 0}),
        .json = keep_json(body),
        .when = {when.kind, when.ms, keep(when.expression), keep(when.zone)},
        .due_ms = *due_ms,
        .next_ms = *due_ms,
    };
    put_timer(session, timer);
    if (session->timer_count > TIMERS_MAX) refuse("limit: more than %d timers", TIMERS_MAX);
    size_t bytes = 0;
    for (size_t i = 0; i < session->timer_count; i++) {
        const slotd_set_timer *set = &session->timers[i];
        bytes += set->name.size + set->content_type.size + set->body.size;
    }
    if (bytes > TIMER_BYTES_MAX)
        refuse("limit: more than %d bytes of timers", TIMER_BYTES_MAX);
    return (slotd_str){NULL, 0};
}

bool slotd_host_cancel(slotd_str name) {
    before_change("cancel timers", name);
    return drop_timer(host.session, name);
}

static slotd_timer given_timer(const slotd_set_timer *set) {
    return (slotd_timer){give(set->name), set->due_ms, give(set->content_type), give(set->body),
                         set->failures};
}

bool slotd_host_timer(slotd_str name, slotd_timer *timer) {
    count_call();
    bool there;
    size_t place = timer_place(host.session, name, &there);
    if (there) *timer = given_timer(&host.session->timers[place]);
    return there;
}

slotd_timer *slotd_host_timers(slotd_str after, uint32_t limit, size_t *count) {
    count_call();
    const slotd_session *session = host.session;
    if (limit > TIMERS_MAX) limit = TIMERS_MAX;
    bool there = false;
    size_t place = after.data ? timer_place(session, after, &there) : 0;
    place += there;
    size_t left = session->timer_count - place;
    *count = left < limit ? left : limit;
    slotd_timer *timers = slotd_arena_get(slotd_host_arena, *count * sizeof *timers,
                                          _Alignof(slotd_timer));
    for (size_t i = 0; i < *count; i++) timers[i] = given_timer(&session->timers[place + i]);
    return timers;
}

slotd_firing slotd_host_firing(void) {
    count_call();
    return host.firing;
}

/* ---- messages to other sessions -------------------------------------------------------------- */

/* What is wrong with an address; NULL: nothing. */
static const char *address_problem(slotd_address to) {
    slotd_str service = to.service, session = to.session;
    if (!service.size || service.size > SERVICE_BYTES_MAX)
        return slotd_format("a service name must have 1 to %d bytes; this one has %zu",
                            SERVICE_BYTES_MAX, service.size);
    bool starts_well = isalnum((unsigned char)service.data[0]);
    slotd_str name = give(service);
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789-_.";
    if (!starts_well || strspn(name.data, allowed) < name.size)
        return slotd_format("service name \"%.*s\": use a-z, 0-9, '-', '_' and '.', starting with a "
                            "letter or digit",
                            SLOTD_ARG(service));
    if (!session.size || session.size > SESSION_BYTES_MAX)
        return slotd_format("a session id must have 1 to %d bytes; this one has %zu",
                            SESSION_BYTES_MAX, session.size);
    if (is_control(give(session)))
        return slotd_format("session id \"%.*s\" has a control character", SLOTD_ARG(session));
    return NULL;
}

static const char *reply_name_problem(slotd_str name) {
    if (!name.size || name.size > SEND_NAME_BYTES_MAX)
        return slotd_format("the name of a reply must have 1 to %d bytes; this one has %zu",
                            SEND_NAME_BYTES_MAX, name.size);
    if (is_control(give(name)))
        return slotd_format("the name of a reply has no control characters, and \"%.*s\" has",
                            SLOTD_ARG(name));
    return NULL;
}

slotd_str slotd_host_send(slotd_address to, slotd_str content_type, slotd_str body,
                          slotd_str reply_as) {
    only_handle("send messages to other sessions");
    if (body.size > SEND_BODY_BYTES_MAX)
        refuse("limit: sends: a body may have %d bytes; this one has %zu", SEND_BODY_BYTES_MAX,
               body.size);
    const char *why = address_problem(to);
    if (!why && reply_as.data) why = reply_name_problem(reply_as);
    if (why) return give(slotd_str_of(why));
    if (host.sends++ == SENDS_MAX)
        refuse("limit: sends: a message may send at most %d", SENDS_MAX);
    slotd_session *session = host.session;
    session->sent = more(session->sent, session->sent_count, sizeof *session->sent);
    session->sent[session->sent_count++] = (slotd_sent){
        .seq = session->seq + 1,
        .to = {keep(to.service), keep(to.session)},
        .content_type = keep(content_type),
        .body = keep(body.data ? body : (slotd_str){"", 0}),
        .json = keep_json(body),
        .reply_as = keep(reply_as),
    };
    return (slotd_str){NULL, 0};
}

slotd_arrival slotd_host_arrival(void) {
    count_call();
    return host.arrival;
}

/* ---- requests over HTTP ---------------------------------------------------------------------- */

static slotd_str given(slotd_str text) { return give(text.data ? text : (slotd_str){"", 0}); }

/* A word of HTTP: a method, or the name of a header. */
static bool is_token(slotd_str text) {
    for (size_t i = 0; i < text.size; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c >= 0x80 || !c || (!isalnum(c) && !strchr("!#$%&'*+-.^_`|~", c))) return false;
    }
    return text.size != 0;
}

static void check_headers(const slotd_request *request) {
    /* What slotd writes itself, or what concerns one connection. */
    static const char *const not_the_callers[] = {
        "accept-encoding", "connection", "content-length",   "expect", "host", "idempotency-key",
        "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade"};
    if (request->header_count > REQUEST_HEADERS_MAX)
        refuse("limit: requests: one may have %d headers", REQUEST_HEADERS_MAX);
    for (size_t i = 0; i < request->header_count; i++) {
        slotd_str name = given(request->headers[i].key), value = given(request->headers[i].value);
        if (!is_token(name)) refuse("invalid header name \"%.*s\"", SLOTD_ARG(name));
        for (size_t j = 0; j < sizeof not_the_callers / sizeof *not_the_callers; j++)
            if (!strcasecmp(name.data, not_the_callers[j]))
                refuse("slotd sets the header %.*s itself", SLOTD_ARG(name));
        for (char *tab; (tab = strchr(value.data, '\t')) != NULL;) *tab = ' ';
        if (is_control(value))
            refuse("the value of the header \"%.*s\" has a control character", SLOTD_ARG(name));
    }
}

/* What ends the call. */
static void check_request(const slotd_request *request) {
    slotd_str method = given(request->method), url = given(request->url);
    if (request->body.size > REQUEST_BODY_BYTES_MAX)
        refuse("limit: requests: a body may have %d bytes; this one has %zu",
               REQUEST_BODY_BYTES_MAX, request->body.size);
    size_t head = method.size + url.size;
    for (size_t i = 0; i < request->header_count; i++)
        head += request->headers[i].key.size + request->headers[i].value.size;
    if (head > REQUEST_HEAD_BYTES_MAX)
        refuse("limit: requests: the method, URL and headers of one may have %d bytes; these have "
               "%zu",
               REQUEST_HEAD_BYTES_MAX, head);
    bool keeps = request->kept_count <= KEPT_HEADERS_MAX;
    for (size_t i = 0; i < request->kept_count; i++)
        keeps &= request->kept[i].size <= KEPT_HEADER_NAME_BYTES_MAX;
    if (!keeps)
        refuse("limit: requests: an answer may be asked to keep %d headers more, with %d bytes in a "
               "name",
               KEPT_HEADERS_MAX, KEPT_HEADER_NAME_BYTES_MAX);
    if (request->form != SLOTD_SHOW_NOTHING) check_kind(given(request->kind));
    if (!is_token(method) || method.size > REQUEST_METHOD_BYTES_MAX ||
        !strcmp(method.data, "CONNECT") || !strcmp(method.data, "TRACE"))
        refuse("invalid method \"%.*s\"", SLOTD_ARG(method));
    size_t scheme = !strncmp(url.data, "http://", 7) ? 7 : !strncmp(url.data, "https://", 8) ? 8 : 0;
    if (!scheme || scheme == url.size || url.data[scheme] == '/' || is_control(url) ||
        memchr(url.data, ' ', url.size))
        refuse("invalid URL \"%.*s\": it must begin with https:// or http:// and a host",
               SLOTD_ARG(url));
    check_headers(request);
}

static const char *id_problem(slotd_str id) {
    if (!id.size || id.size > REQUEST_ID_BYTES_MAX)
        return slotd_format("the id of a request must have 1 to %d bytes; this one has %zu",
                            REQUEST_ID_BYTES_MAX, id.size);
    if (is_control(give(id)))
        return slotd_format("the id of a request has no control characters, and \"%.*s\" has",
                            SLOTD_ARG(id));
    return NULL;
}

/* What is wrong with a number of the options; NULL: nothing, or there is none. */
static const char *number_problem(const char *what, int64_t number, int64_t most) {
    if (number < 0 || (number && number <= most)) return NULL;
    return slotd_format("%s is 1 to %d, not %lld", what, (int)most, (long long)number);
}

static bool is_path(slotd_str path) {
    bool is_step = false;
    for (size_t i = 0; i < path.size; i++) {
        if (path.data[i] == '.' && !is_step) return false;
        is_step = path.data[i] != '.';
    }
    return is_step && path.size <= STREAM_PATH_BYTES_MAX;
}

/* What is wrong with the options; NULL: nothing. */
static const char *options_problem(const slotd_request *request) {
    const char *why;
    if ((why = number_problem("the timeout of an attempt, in milliseconds,", request->timeout_ms,
                              REQUEST_TIMEOUT_MAX_MS)) ||
        (why = number_problem("the deadline, in milliseconds,", request->deadline_ms,
                              REQUEST_DEADLINE_MAX_MS)) ||
        (why = number_problem("the number of attempts", request->attempts, ATTEMPTS_MAX)) ||
        (why = number_problem("the size of the answer's body", request->answer_bytes,
                              ANSWER_BYTES_MAX)))
        return why;
    if (request->redirects > REDIRECTS_MAX)
        return slotd_format("at most %d redirects are followed", REDIRECTS_MAX);
    if (request->form == SLOTD_SHOW_JOINED && !is_path(request->path))
        return slotd_format("a path has keys and numbers with dots between them, and %d bytes at "
                            "most: `choices.0.delta.content`",
                            STREAM_PATH_BYTES_MAX);
    return NULL;
}

/* Where the open request of an id is; the number of them all: there is none. */
static size_t request_place(const slotd_session *session, slotd_str id) {
    size_t at = 0;
    while (at < session->request_count &&
           !(session->requests[at].open && slotd_equal(session->requests[at].id, id)))
        at++;
    return at;
}

static bool end_request(slotd_session *session, slotd_str id) {
    size_t at = request_place(session, id);
    if (at == session->request_count) return false;
    session->requests[at].open = false;
    return true;
}

static size_t request_bytes(const slotd_requested *requested) {
    const slotd_request *details = &requested->details;
    size_t bytes = requested->id.size + details->url.size + details->body.size;
    for (size_t i = 0; i < details->header_count; i++)
        bytes += details->headers[i].key.size + details->headers[i].value.size;
    return bytes;
}

static slotd_request keep_request(const slotd_request *request) {
    slotd_request kept = *request;
    kept.method = keep(request->method);
    kept.url = keep(request->url);
    kept.body = keep(request->body.data ? request->body : (slotd_str){"", 0});
    kept.kind = keep(request->kind);
    kept.path = keep(request->path);
    kept.headers = slotd_arena_get(&test_arena, request->header_count * sizeof(slotd_pair),
                                   _Alignof(slotd_pair));
    for (size_t i = 0; i < request->header_count; i++)
        kept.headers[i] =
            (slotd_pair){keep(request->headers[i].key), keep(request->headers[i].value)};
    kept.kept = slotd_arena_get(&test_arena, request->kept_count * sizeof(slotd_str),
                                _Alignof(slotd_str));
    for (size_t i = 0; i < request->kept_count; i++) kept.kept[i] = keep(request->kept[i]);
    return kept;
}

slotd_str slotd_host_request(slotd_str id, const slotd_request *request) {
    only_handle("make requests over HTTP");
    check_request(request);
    const char *why = id_problem(id);
    if (!why) why = options_problem(request);
    if (why) return give(slotd_str_of(why));
    if (host.requests++ == REQUESTS_MAX)
        refuse("limit: requests: a message may make at most %d", REQUESTS_MAX);
    slotd_session *session = host.session;
    end_request(session, id);
    session->requests = more(session->requests, session->request_count, sizeof *session->requests);
    session->requests[session->request_count++] = (slotd_requested){
        .seq = session->seq + 1,
        .id = keep(id),
        .details = keep_request(request),
        .json = keep_json(request->body),
        .open = true,
        .attempts = 1,
    };
    size_t open = 0, bytes = 0;
    for (size_t i = 0; i < session->request_count; i++) {
        if (!session->requests[i].open) continue;
        open++;
        bytes += request_bytes(&session->requests[i]);
    }
    if (open > REQUESTS_OPEN_MAX || bytes > REQUESTS_OPEN_BYTES_MAX)
        refuse("outbox-full: more than %d requests are open, or %d bytes of them",
               REQUESTS_OPEN_MAX, REQUESTS_OPEN_BYTES_MAX);
    return (slotd_str){NULL, 0};
}

bool slotd_host_cancel_request(slotd_str id) {
    only_handle("cancel requests");
    return end_request(host.session, id);
}

static int by_bytes(const void *a, const void *b) {
    return compare(*(const slotd_str *)a, *(const slotd_str *)b);
}

slotd_str *slotd_host_open_requests(size_t *count) {
    count_call();
    const slotd_session *session = host.session;
    slotd_str *ids = slotd_arena_get(slotd_host_arena, session->request_count * sizeof *ids,
                                     _Alignof(slotd_str));
    *count = 0;
    for (size_t i = 0; i < session->request_count; i++)
        if (session->requests[i].open) ids[(*count)++] = give(session->requests[i].id);
    if (*count) qsort(ids, *count, sizeof *ids, by_bytes);
    return ids;
}

slotd_http_answer slotd_host_http_answer(void) {
    count_call();
    return host.answer;
}

/* ---- the end, and who is there ---------------------------------------------------------------- */

void slotd_host_close(void) {
    only_handle("close the session");
    host.closes = true;
}

void slotd_host_watch_subscribers(bool wanted) {
    only_handle("watch the session's subscribers");
    host.session->watches = wanted;
}

slotd_presence slotd_host_presence(void) {
    count_call();
    return host.presence;
}

slotd_client slotd_host_client(void) {
    count_call();
    return host.client;
}

/* What ends with the message that closes it. */
static void close_session(slotd_session *session) {
    session->closed = true;
    session->watches = false;
    session->timer_count = 0;
    for (size_t i = 0; i < session->request_count; i++) session->requests[i].open = false;
    for (size_t i = 0; i < session->sent_count; i++)
        session->sent[i].answered |= session->sent[i].reply_as.data != NULL;
}

void slotd_host_log(slotd_level level, slotd_str text) {
    if (!host.session) {
        fprintf(stderr, "%.*s\n", SLOTD_ARG(text));
        return;
    }
    if (host.lines++ >= LOG_LINES_MAX) return;
    if (text.size > LOG_LINE_BYTES_MAX) text.size = LOG_LINE_BYTES_MAX;
    slotd_session *session = host.session;
    session->log = more(session->log, session->log_count, sizeof *session->log);
    session->log[session->log_count++] = (slotd_line){level, keep(text)};
}

void slotd_end_lines(void) {}

_Noreturn void slotd_host_trap(slotd_str why) {
    if (!host.session) exit(1);
    host.why = keep(why);
    longjmp(host.ends, 1);
}

/* ---- calls ----------------------------------------------------------------------------------- */

static void run(slotd_cx *cx, slotd_str input, slotd_outcome *outcome) {
    if (host.kind == SLOTD_MIGRATE) {
        const char *refusal = slotd_run_migrate(cx, input);
        if (!refusal) return;
        outcome->ended = SLOTD_REFUSED;
        outcome->message = keep(slotd_str_of(refusal));
        return;
    }
    slotd_result result =
        host.kind == SLOTD_HANDLE ? slotd_run_handle(cx, input) : slotd_run_query(cx, input);
    if (result.body.size > REPLY_BYTES_MAX)
        refuse("limit: a reply of %zu bytes", result.body.size);
    outcome->ended = result.kind == SLOTD_REJECTION ? SLOTD_REJECTED : SLOTD_REPLIED;
    outcome->content_type = keep(result.content_type);
    outcome->body = keep(result.body);
    outcome->json = keep_json(result.body);
    outcome->code = keep(result.code);
    outcome->message = keep(result.message);
    outcome->retriable = result.retriable;
}

/* Where a message comes from, if from no client. */
typedef struct came {
    slotd_firing firing;
    slotd_arrival arrival;
    slotd_http_answer answer;
    slotd_presence presence;
    slotd_client client;
} came;

static slotd_requested *copy_of_requests(const slotd_session *session) {
    size_t size = session->request_count * sizeof *session->requests, room = 1;
    /* As much room as `more` counts on. */
    while (room < session->request_count) room *= 2;
    slotd_requested *copy = slotd_arena_get(&test_arena, room * sizeof *copy,
                                            _Alignof(max_align_t));
    if (size) memcpy(copy, session->requests, size);
    return copy;
}

static slotd_outcome call(slotd_session *session, slotd_call_kind kind, slotd_cx *cx,
                          slotd_str input, came came) {
    if (session->closed && kind == SLOTD_HANDLE)
        return (slotd_outcome){.ended = SLOTD_REJECTED,
                               .code = slotd_str_of("session-closed"),
                               .message = slotd_str_of("The session is closed.")};
    static slotd_outcome outcome;
    /* What a failed call changed is put back. Values are kept, so the pairs are enough. */
    static store before;
    static size_t events_before, notified_before, timers_before, sent_before;
    static slotd_set_timer *timers_were;
    static uint64_t expired_before;
    static slotd_requested *requests_were;
    static size_t requests_before;
    static bool watched_before;
    if (host.session) slotd_failed(__FILE__, __LINE__, "a call within a call");
    memset(&host, 0, sizeof host);
    memset(&outcome, 0, sizeof outcome);
    host.session = session;
    host.kind = kind;
    host.firing = came.firing;
    host.arrival = came.arrival;
    host.answer = came.answer;
    host.presence = came.presence;
    host.client = came.client;
    before = *session->store;
    before.pairs = slotd_arena_get(&test_arena, before.count * sizeof(slotd_pair),
                                   _Alignof(slotd_pair));
    before.capacity = before.count;
    if (before.count)
        memcpy(before.pairs, session->store->pairs, before.count * sizeof(slotd_pair));
    events_before = session->event_count;
    notified_before = session->notified_count;
    sent_before = session->sent_count;
    timers_before = session->timer_count;
    timers_were = session->timers;
    expired_before = session->expires_ms;
    requests_before = session->request_count;
    requests_were = copy_of_requests(session);
    watched_before = session->watches;
    if (setjmp(host.ends) == 0) {
        run(cx, give(input), &outcome);
    } else {
        memset(&outcome, 0, sizeof outcome);
        outcome.ended = SLOTD_TRAPPED;
        outcome.message = host.why;
    }
    slotd_end_call();
    bool closes = host.closes;
    host.session = NULL;
    if (outcome.ended != SLOTD_REPLIED) {
        *session->store = before;
        session->event_count = events_before;
        session->notified_count = notified_before;
        session->sent_count = sent_before;
        session->timer_count = timers_before;
        session->timers = timers_were;
        session->expires_ms = expired_before;
        session->request_count = requests_before;
        session->requests = requests_were;
        session->watches = watched_before;
    } else if (kind == SLOTD_HANDLE) {
        session->seq++;
        if (closes) close_session(session);
    }
    return outcome;
}

slotd_session *slotd_new_session(const char *name) {
    slotd_session *session =
        slotd_arena_get(&test_arena, sizeof *session, _Alignof(slotd_session));
    session->name = keep(slotd_str_of(name));
    slotd_reset(session);
    return session;
}

void slotd_reset(slotd_session *session) {
    *session = (slotd_session){
        .name = session->name,
        .time_ms = 1700000000000,
        .store = slotd_arena_get(&test_arena, sizeof(store), _Alignof(store)),
    };
    *session->store = (store){NULL, 0, 0};
}

slotd_outcome slotd_send_bytes(slotd_session *session, const char *sender,
                               const char *content_type, slotd_str body) {
    slotd_cx cx = {
        .session = session->name,
        .seq = session->seq + 1,
        .time_ms = session->time_ms,
        .content_type = slotd_str_of(content_type),
        .id = slotd_str_of(session->id),
        .sender = slotd_str_of(sender),
    };
    return call(session, SLOTD_HANDLE, &cx, body, (came){.client = session->client});
}

slotd_outcome slotd_send(slotd_session *session, const char *sender, const char *json) {
    return slotd_send_bytes(session, sender, "application/json", slotd_str_of(json));
}

slotd_outcome slotd_ask_bytes(slotd_session *session, const char *content_type, slotd_str body) {
    slotd_cx cx = {
        .session = session->name,
        .seq = session->seq,
        .time_ms = session->time_ms,
        .content_type = slotd_str_of(content_type),
    };
    return call(session, SLOTD_QUERY, &cx, body, (came){.client = session->client});
}

slotd_outcome slotd_ask(slotd_session *session, const char *json) {
    return slotd_ask_bytes(session, "application/json", slotd_str_of(json));
}

slotd_outcome slotd_migrate(slotd_session *session, const char *from) {
    slotd_cx cx = {.session = {"", 0}, .seq = 0, .content_type = {"", 0}};
    return call(session, SLOTD_MIGRATE, &cx, slotd_str_of(from), (came){0});
}

/* ---- what is due ----------------------------------------------------------------------------- */

/* Which of a timer's times that is, and the timer that is left, if there is one. */
static slotd_firing step(const slotd_set_timer *timer, uint64_t now_ms, bool *is_left,
                         slotd_set_timer *left) {
    uint64_t late = now_ms > timer->due_ms ? now_ms - timer->due_ms : 0;
    slotd_firing firing = {.due_ms = timer->due_ms, .attempt = timer->failures + 1};
    *left = *timer;
    left->failures = 0;
    *is_left = false;
    if (timer->when.kind == SLOTD_EVERY) {
        firing.missed = late / timer->when.ms;
        left->due_ms = timer->due_ms + (firing.missed + 1) * timer->when.ms;
        *is_left = left->due_ms <= TIMER_MS_MAX;
    } else if (timer->when.kind == SLOTD_CRON) {
        left->due_ms = next_minute(now_ms > timer->due_ms ? now_ms : timer->due_ms);
        *is_left = true;
    }
    left->next_ms = left->due_ms;
    return firing;
}

static slotd_outcome fire(slotd_session *session, slotd_set_timer timer) {
    bool is_left;
    slotd_set_timer left;
    slotd_firing firing = step(&timer, session->time_ms, &is_left, &left);
    slotd_cx cx = {
        .session = session->name,
        .seq = session->seq + 1,
        .time_ms = session->time_ms,
        .content_type = timer.content_type,
        .origin = SLOTD_TIMER,
        .origin_name = timer.name,
    };
    if (is_left)
        put_timer(session, left);
    else
        drop_timer(session, timer.name);
    slotd_fired fired = {timer.name, firing, session->time_ms, {0}};
    fired.outcome = call(session, SLOTD_HANDLE, &cx, timer.body, (came){.firing = firing});
    session->fired = more(session->fired, session->fired_count, sizeof *session->fired);
    session->fired[session->fired_count++] = fired;
    if (fired.outcome.ended == SLOTD_REPLIED) return fired.outcome;
    bool is_final = fired.outcome.ended == SLOTD_REJECTED && !fired.outcome.retriable;
    if (is_final || firing.attempt >= ATTEMPTS_MAX) {
        session->dead = more(session->dead, session->dead_count, sizeof *session->dead);
        session->dead[session->dead_count++] = fired;
        return fired.outcome;
    }
    uint64_t wait_ms = (uint64_t)RETRY_MIN_MS << timer.failures;
    timer.failures++;
    timer.next_ms = session->time_ms + (wait_ms < RETRY_MAX_MS ? wait_ms : RETRY_MAX_MS);
    put_timer(session, timer);
    return fired.outcome;
}

static const slotd_set_timer *first_due(const slotd_session *session, uint64_t until_ms) {
    const slotd_set_timer *first = NULL;
    for (size_t i = 0; i < session->timer_count; i++) {
        const slotd_set_timer *timer = &session->timers[i];
        if (timer->when.kind == SLOTD_CRON)
            slotd_failed(__FILE__, __LINE__,
                         "slotd_advance: what the cron expression of the timer \"%.*s\" names is "
                         "not known here; fire it with slotd_fire, or cancel it first",
                         SLOTD_ARG(timer->name));
        if (timer->next_ms <= until_ms && (!first || timer->next_ms < first->next_ms))
            first = timer;
    }
    return first;
}

static void expire(slotd_session *session) {
    uint64_t at_ms = session->expires_ms;
    *session = (slotd_session){
        .name = session->name,
        .time_ms = at_ms > session->time_ms ? at_ms : session->time_ms,
        .id = session->id,
        .client = session->client,
        .log_count = session->log_count,
        .log = session->log,
        .fired_count = session->fired_count,
        .fired = session->fired,
        .store = session->store,
    };
    *session->store = (store){NULL, 0, 0};
}

size_t slotd_advance(slotd_session *session, uint64_t ms) {
    uint64_t until_ms = plus(session->time_ms, ms);
    size_t count = 0;
    for (;;) {
        const slotd_set_timer *due = first_due(session, until_ms);
        bool expires = session->expires_ms && session->expires_ms <= until_ms;
        if (expires && (!due || session->expires_ms < due->next_ms)) {
            expire(session);
            continue;
        }
        if (!due) break;
        if (count == FIRED_MAX)
            slotd_failed(__FILE__, __LINE__, "slotd_advance: more than %d messages of timers",
                         FIRED_MAX);
        if (due->next_ms > session->time_ms) session->time_ms = due->next_ms;
        fire(session, *due);
        count++;
    }
    session->time_ms = until_ms;
    return count;
}

const slotd_set_timer *slotd_timer_of(const slotd_session *session, const char *name) {
    bool there;
    size_t place = timer_place(session, slotd_str_of(name), &there);
    return there ? &session->timers[place] : NULL;
}

slotd_outcome slotd_fire(slotd_session *session, const char *name) {
    const slotd_set_timer *timer = slotd_timer_of(session, name);
    if (!timer) slotd_failed(__FILE__, __LINE__, "slotd_fire: no timer \"%s\" is set", name);
    return fire(session, *timer);
}

/* ---- what comes from other sessions ---------------------------------------------------------- */

static slotd_outcome arrive(slotd_session *session, slotd_arrival arrival,
                            slotd_str content_type, slotd_str body) {
    const char *from = slotd_format("%.*s/%.*s", SLOTD_ARG(arrival.sender.service),
                                    SLOTD_ARG(arrival.sender.session));
    slotd_cx cx = {
        .session = session->name,
        .seq = session->seq + 1,
        .time_ms = session->time_ms,
        .content_type = content_type,
        .origin = SLOTD_SESSION,
        .origin_name = keep(slotd_str_of(from)),
    };
    return call(session, SLOTD_HANDLE, &cx, body, (came){.arrival = arrival});
}

slotd_outcome slotd_deliver_bytes(slotd_session *session, const char *from,
                                  const char *content_type, slotd_str body, uint32_t attempt,
                                  bool reply_wanted) {
    slotd_address sender = slotd_address_of(slotd_str_of(from));
    const char *why = sender.session.data ? address_problem(sender) : "it has no slash";
    if (why)
        slotd_failed(__FILE__, __LINE__, "slotd_deliver: \"%s\" is no service/session: %s", from,
                     why);
    slotd_arrival arrival = {.kind = SLOTD_MESSAGE,
                             .sender = {keep(sender.service), keep(sender.session)},
                             .attempt = attempt,
                             .reply_wanted = reply_wanted};
    return arrive(session, arrival, slotd_str_of(content_type), body);
}

slotd_outcome slotd_deliver(slotd_session *session, const char *from, const char *json) {
    return slotd_deliver_bytes(session, from, "application/json", slotd_str_of(json), 1, false);
}

static bool waits_as(const slotd_sent *sent, slotd_str name) {
    return !sent->answered && sent->reply_as.data && slotd_equal(sent->reply_as, name);
}

static slotd_outcome come_back(slotd_session *session, slotd_arrival answer,
                               slotd_str content_type, slotd_str body) {
    size_t at = 0;
    while (at < session->sent_count && !waits_as(&session->sent[at], answer.name)) at++;
    if (at == session->sent_count)
        slotd_failed(__FILE__, __LINE__, "no message that was sent waits for a reply as \"%.*s\"",
                     SLOTD_ARG(answer.name));
    answer.kind = SLOTD_ANSWER;
    answer.sender = session->sent[at].to;
    answer.attempt = session->sent[at].failures + 1;
    slotd_outcome outcome = arrive(session, answer, content_type, body);
    bool is_final = outcome.ended == SLOTD_REPLIED ||
                    (outcome.ended == SLOTD_REJECTED && !outcome.retriable);
    /* The handler may have sent more, and moved them. */
    slotd_sent *sent = &session->sent[at];
    if (outcome.ended != SLOTD_REPLIED) sent->failures = answer.attempt;
    sent->answered = is_final || answer.attempt >= ATTEMPTS_MAX;
    return outcome;
}

slotd_outcome slotd_answer_bytes(slotd_session *session, const char *name,
                                 const char *content_type, slotd_str body) {
    slotd_arrival answer = {.name = slotd_str_of(name)};
    return come_back(session, answer, slotd_str_of(content_type), body);
}

slotd_outcome slotd_answer(slotd_session *session, const char *name, const char *json) {
    return slotd_answer_bytes(session, name, "application/json", slotd_str_of(json));
}

slotd_outcome slotd_refuse(slotd_session *session, const char *name, const char *code,
                           const char *message) {
    slotd_arrival answer = {.name = slotd_str_of(name),
                            .refused = true,
                            .code = slotd_str_of(code),
                            .message = slotd_str_of(message)};
    return come_back(session, answer, (slotd_str){"application/octet-stream", 24}, (slotd_str){"", 0});
}

/* ---- what comes of requests, and who is there -------------------------------------------------- */

static size_t open_request(const slotd_session *session, const char *id) {
    size_t at = request_place(session, slotd_str_of(id));
    if (at == session->request_count)
        slotd_failed(__FILE__, __LINE__, "no request \"%s\" is open", id);
    return at;
}

static slotd_outcome come_of(slotd_session *session, size_t at, slotd_http_answer answer,
                             slotd_str content_type, slotd_str body) {
    slotd_requested *requested = &session->requests[at];
    answer.id = requested->id;
    answer.attempts = requested->attempts;
    answer.attempt = requested->failures + 1;
    slotd_cx cx = {
        .session = session->name,
        .seq = session->seq + 1,
        .time_ms = session->time_ms,
        .content_type = content_type,
        .origin = SLOTD_HTTP,
        .origin_name = requested->id,
    };
    /* It goes with the message: the handler may ask under the same id again. */
    requested->open = false;
    slotd_outcome outcome = call(session, SLOTD_HANDLE, &cx, body, (came){.answer = answer});
    if (outcome.ended == SLOTD_REPLIED) return outcome;
    bool is_final = outcome.ended == SLOTD_REJECTED && !outcome.retriable;
    /* They may have moved. */
    requested = &session->requests[at];
    requested->failures = answer.attempt;
    requested->open = !is_final && answer.attempt < ATTEMPTS_MAX;
    return outcome;
}

slotd_outcome slotd_respond_bytes(slotd_session *session, const char *id, uint16_t status,
                                  const slotd_pair *headers, size_t header_count,
                                  const char *content_type, slotd_str body) {
    size_t at = open_request(session, id);
    slotd_pair *kept = slotd_arena_get(&test_arena, (header_count + 1) * sizeof *kept,
                                       _Alignof(slotd_pair));
    if (header_count) memcpy(kept, headers, header_count * sizeof *kept);
    kept[header_count] =
        (slotd_pair){slotd_str_of("content-type"), keep(slotd_str_of(content_type))};
    slotd_http_answer answer = {
        .status = status, .headers = kept, .header_count = header_count + 1};
    return come_of(session, at, answer, slotd_str_of(content_type), body);
}

slotd_outcome slotd_respond(slotd_session *session, const char *id, uint16_t status,
                            const char *json) {
    return slotd_respond_bytes(session, id, status, NULL, 0, "application/json",
                               slotd_str_of(json));
}

slotd_outcome slotd_fail_request(slotd_session *session, const char *id, const char *code,
                                 const char *reason) {
    slotd_http_answer answer = {
        .failed = true, .code = slotd_str_of(code), .reason = slotd_str_of(reason)};
    return come_of(session, open_request(session, id), answer,
                   slotd_str_of("application/octet-stream"), (slotd_str){"", 0});
}

/* The open request of an id whose answer is shown. */
static slotd_requested *shown_request(const slotd_session *session, const char *id) {
    slotd_requested *requested = &session->requests[open_request(session, id)];
    if (requested->details.form == SLOTD_SHOW_NOTHING)
        slotd_failed(__FILE__, __LINE__, "the answer of the request \"%s\" is not shown", id);
    return requested;
}

void slotd_part(slotd_session *session, const char *id, const char *text) {
    slotd_requested *requested = shown_request(session, id);
    session->seq++;
    if (requested->is_void) {
        requested->is_void = false;
        const slotd_json *body = slotd_object("id", slotd_text(requested->id), "attempt",
                                              slotd_u64(requested->attempts), NULL, NULL);
        session->events = add_event(session->events, &session->event_count, session->seq,
                                    slotd_str_of("slotd.restarted"),
                                    slotd_str_of("application/json"), slotd_write(body));
        slotd_arena_reset(&slotd_call_arena);
    }
    requested->parts = more(requested->parts, requested->part_count, sizeof(slotd_str));
    requested->parts[requested->part_count++] = keep(slotd_str_of(text));
    session->events = add_event(session->events, &session->event_count, session->seq,
                                requested->details.kind,
                                slotd_str_of("text/plain; charset=utf-8"), slotd_str_of(text));
}

void slotd_restart(slotd_session *session, const char *id) {
    slotd_requested *requested = &session->requests[open_request(session, id)];
    requested->attempts++;
    requested->is_void |= requested->part_count != 0;
    requested->part_count = 0;
    requested->parts = NULL;
}

static slotd_str joined(slotd_str text, slotd_str more_text) {
    char *both = slotd_arena_get(&test_arena, text.size + more_text.size, 1);
    if (text.size) memcpy(both, text.data, text.size);
    if (more_text.size) memcpy(both + text.size, more_text.data, more_text.size);
    return (slotd_str){both, text.size + more_text.size};
}

slotd_outcome slotd_end(slotd_session *session, const char *id) {
    const slotd_requested *requested = shown_request(session, id);
    bool is_data = requested->details.form == SLOTD_SHOW_DATA;
    slotd_str body = {"", 0};
    for (size_t i = 0; i < requested->part_count; i++) {
        slotd_str part = requested->parts[i];
        if (!is_data) {
            body = joined(body, part);
            continue;
        }
        for (bool more_lines = true; more_lines;) {
            const char *end = memchr(part.data, '\n', part.size);
            size_t size = end ? (size_t)(end - part.data) : part.size;
            body = joined(joined(body, slotd_str_of("data: ")), (slotd_str){part.data, size});
            body = joined(body, slotd_str_of("\n"));
            more_lines = end != NULL;
            part = slotd_from(part, size + more_lines);
        }
        body = joined(body, slotd_str_of("\n"));
    }
    const char *type = is_data ? "text/event-stream" : "text/plain; charset=utf-8";
    return slotd_respond_bytes(session, id, 200, NULL, 0, type, body);
}

slotd_outcome slotd_tell_presence(slotd_session *session, bool present) {
    if (!session->watches)
        slotd_failed(__FILE__, __LINE__, "the session does not watch its subscribers");
    slotd_cx cx = {
        .session = session->name,
        .seq = session->seq + 1,
        .time_ms = session->time_ms,
        .content_type = slotd_str_of("application/octet-stream"),
        .origin = SLOTD_SESSION,
        /* Nobody here knows the name of the service. */
        .origin_name = joined(slotd_str_of("service/"), session->name),
    };
    slotd_presence presence = present ? SLOTD_PRESENT : SLOTD_ABSENT;
    return call(session, SLOTD_HANDLE, &cx, (slotd_str){"", 0}, (came){.presence = presence});
}

void slotd_set_client(slotd_session *session, const char *kind, const char *subject) {
    session->client = (slotd_client){0};
    if (!kind) return;
    session->client.kind = keep(slotd_str_of(kind));
    if (subject) session->client.subject = keep(slotd_str_of(subject));
}

void slotd_add_claim(slotd_session *session, const char *name, const char *value) {
    slotd_client *client = &session->client;
    size_t count = client->claim_count, at = 0;
    slotd_pair *claims = slotd_arena_get(&test_arena, (count + 1) * sizeof *claims,
                                         _Alignof(slotd_pair));
    /* A node has them in the order of their names. */
    while (at < count && strcmp(client->claims[at].key.data, name) < 0) at++;
    for (size_t i = 0; i < count; i++) claims[i < at ? i : i + 1] = client->claims[i];
    claims[at] = (slotd_pair){keep(slotd_str_of(name)), keep(slotd_str_of(value))};
    client->claims = claims;
    client->claim_count = count + 1;
}

slotd_str slotd_state(const slotd_session *session, const char *key) {
    bool there;
    size_t place = place_of(session->store, slotd_str_of(key), &there);
    return there ? session->store->pairs[place].value : (slotd_str){NULL, 0};
}

size_t slotd_state_count(const slotd_session *session) { return session->store->count; }

void slotd_put_state(slotd_session *session, const char *key, const char *value) {
    store_set(session->store, slotd_str_of(key), slotd_str_of(value));
}

/* ---- checks ---------------------------------------------------------------------------------- */

void slotd_check_text(const char *file, int line, const char *what, slotd_str text,
                      slotd_str expected) {
    if (slotd_equal(text, expected) && !text.data == !expected.data) return;
    if (!text.data)
        slotd_failed(file, line, "%s is none, not \"%.*s\"", what, SLOTD_ARG(expected));
    slotd_failed(file, line, "%s is \"%.*s\", not \"%.*s\"", what, SLOTD_ARG(text),
                 SLOTD_ARG(expected));
}

void slotd_check_json(const char *file, int line, const char *what, const slotd_json *value,
                      const char *expected) {
    const char *why;
    const slotd_json *wanted = slotd_parse(slotd_str_of(expected), &why);
    if (!wanted) slotd_failed(file, line, "the test's own JSON is none: %s: %s", why, expected);
    if (slotd_same(value, wanted)) {
        slotd_arena_reset(&slotd_call_arena);
        return;
    }
    slotd_failed(file, line, "%s is %s, not %s", what, value ? slotd_write(value).data : "nothing",
                 expected);
}

/* ---- what the handler's C library sees ------------------------------------------------------- */

/* What a call asks the machine for it is given as in the component: what a program defines goes
 * before what its libc has. */

_Noreturn void __assert_fail(const char *expression, const char *file, unsigned line,
                             const char *function) {
    if (host.session)
        slotd_trap_at(file, (int)line, function, "assertion failed: %s", expression);
    slotd_failed(file, (int)line, "%s", expression);
}

#ifdef __linux__
int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!host.session) return (int)syscall(SYS_clock_gettime, clock, out);
    uint64_t ms;
    if (!slotd_call_time(&ms)) {
        errno = ENOTSUP;
        return -1;
    }
    *out = (struct timespec){(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    return 0;
}

time_t time(time_t *out) {
    struct timespec at;
    time_t now = clock_gettime(CLOCK_REALTIME, &at) ? -1 : at.tv_sec;
    if (out) *out = now;
    return now;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    (void)zone;
    struct timespec at;
    if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
    *out = (struct timeval){at.tv_sec, at.tv_nsec / 1000};
    return 0;
}

int getentropy(void *out, size_t size) {
    if (!host.session) return syscall(SYS_getrandom, out, size, 0) == (long)size ? 0 : -1;
    slotd_call_random(out, size);
    return 0;
}
#endif

/* ---- the program ----------------------------------------------------------------------------- */

static bool passes(const struct test *test) {
    test_under_way = true;
    if (setjmp(test_ends) == 0) {
        test->run();
        return true;
    }
    return false;
}

static bool is_wanted(const struct test *test, int count, char **names) {
    for (int i = 0; i < count; i++)
        if (strstr(test->name, names[i])) return true;
    return !count;
}

int main(int count, char **args) {
    size_t ran = 0, failed = 0;
    while (tests) {
        struct test *test = tests;
        if (is_wanted(test, count - 1, args + 1)) {
            bool good = passes(test);
            test_under_way = false;
            host.session = NULL;
            slotd_arena_free(&slotd_call_arena);
            slotd_arena_free(&test_arena);
            printf("%s %s\n", good ? "ok    " : "FAILED", test->name);
            fflush(stdout);
            ran++, failed += !good;
        }
        tests = test->next;
        free(test);
    }
    if (ran)
        printf("%zu passed, %zu failed\n", ran - failed, failed);
    else
        fprintf(stderr, "there is no such test\n");
    return failed || !ran;
}
#endif
