/*
 * The component's side: the world `handler` of wit/slot.wit by the canonical ABI, and below it what
 * libc asks of WASI, answered here, so that a component imports nothing but slotd's interface.
 *
 * Written by hand against the ABI, which is frozen, rather than generated: generated bindings give
 * each text and list to the handler to free, abort without a word when memory is short, and need a
 * binary object beside them. The linker's result is checked against the WIT function by function
 * when it is made a component, and a test of slotd compares the lines of layout below with the WIT.
 */
#ifdef __wasm__
#include "internal.h"

#include <string.h>

#define IMPORT(interface, name) \
    __attribute__((import_module("slotd:slot/" interface "@1.1.0"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

/* ---- layouts -------------------------------------------------------------------------------- */

/* A text or a list, in memory. */
typedef struct abi_list {
    const void *data;
    size_t size;
} abi_list;

typedef struct abi_option_list {
    uint8_t some;
    abi_list value;
} abi_option_list;

typedef struct abi_pair {
    abi_list key, value;
} abi_pair;

typedef struct abi_reply {
    abi_list content_type, body;
} abi_reply;

typedef struct abi_rejection {
    abi_list code, message;
    uint8_t retriable;
} abi_rejection;

typedef struct abi_result {
    uint8_t error;
    union {
        abi_reply reply;
        abi_rejection rejection;
    };
} abi_result;

typedef struct abi_migrate_result {
    uint8_t error;
    abi_list message;
} abi_migrate_result;

typedef struct abi_scheduled {
    uint8_t error;
    union {
        uint64_t due_ms;
        abi_list why;
    };
} abi_scheduled;

typedef struct abi_timer {
    abi_list name;
    uint64_t due_ms;
    abi_list content_type, body;
    uint32_t failures;
} abi_timer;

typedef struct abi_option_timer {
    uint8_t some;
    abi_timer value;
} abi_option_timer;

typedef struct abi_firing {
    uint64_t due_ms, missed;
    uint32_t attempt;
} abi_firing;

typedef struct abi_option_firing {
    uint8_t some;
    abi_firing value;
} abi_option_firing;

typedef struct abi_expired {
    uint8_t error;
    abi_list message;
} abi_expired;

typedef struct abi_sent {
    uint8_t error;
    abi_list message;
} abi_sent;

typedef struct abi_address {
    abi_list service, session;
} abi_address;

typedef struct abi_delivery {
    abi_address sender;
    uint32_t attempt;
    uint8_t reply_wanted;
} abi_delivery;

typedef struct abi_option_rejection {
    uint8_t some;
    abi_rejection value;
} abi_option_rejection;

typedef struct abi_answer {
    abi_list name;
    abi_address sender;
    abi_option_rejection refusal;
    uint32_t attempt;
} abi_answer;

typedef struct abi_arrival {
    uint8_t is_answer;
    union {
        abi_delivery message;
        abi_answer answer;
    };
} abi_arrival;

typedef struct abi_option_arrival {
    uint8_t some;
    abi_arrival value;
} abi_option_arrival;

typedef struct abi_option_u32 {
    uint8_t some;
    uint32_t value;
} abi_option_u32;

typedef struct abi_option_u8 {
    uint8_t some, value;
} abi_option_u8;

typedef struct abi_form {
    uint8_t form;
    abi_list joined;
} abi_form;

typedef struct abi_streaming {
    abi_list kind;
    abi_form form;
} abi_streaming;

typedef struct abi_option_streaming {
    uint8_t some;
    abi_streaming value;
} abi_option_streaming;

typedef struct abi_options {
    abi_option_u32 timeout_ms, deadline_ms, attempts;
    abi_option_u8 redirects;
    abi_option_u32 answer_bytes;
    abi_list keep_headers;
    abi_option_streaming stream;
} abi_options;

typedef struct abi_details {
    abi_list method, url, headers, body;
    abi_options options;
} abi_details;

/* What `request` takes: too much for parameters. */
typedef struct abi_request {
    abi_list id;
    abi_details details;
} abi_request;

typedef struct abi_requested {
    uint8_t error;
    abi_list message;
} abi_requested;

typedef struct abi_response {
    uint16_t status;
    abi_list headers;
} abi_response;

typedef struct abi_option_response {
    uint8_t some;
    abi_response value;
} abi_option_response;

typedef struct abi_failure {
    abi_list code, reason;
    abi_option_response response;
} abi_failure;

typedef struct abi_outcome {
    uint8_t is_failure;
    union {
        abi_response response;
        abi_failure failure;
    };
} abi_outcome;

typedef struct abi_http_answer {
    abi_list id;
    abi_outcome outcome;
    uint32_t attempts, attempt;
} abi_http_answer;

typedef struct abi_option_http_answer {
    uint8_t some;
    abi_http_answer value;
} abi_option_http_answer;

typedef struct abi_option_presence {
    uint8_t some, value;
} abi_option_presence;

typedef struct abi_identity {
    abi_option_list subject;
    abi_list kind, claims;
} abi_identity;

typedef struct abi_option_identity {
    uint8_t some;
    abi_identity value;
} abi_option_identity;

#define LAYOUT(type, member, at) _Static_assert(offsetof(type, member) == at, #type "." #member)
#define SIZE(type, size) _Static_assert(sizeof(type) == size, #type)
/* What a test of slotd works out from wit/slot.wit. */
/* layout: begin */
LAYOUT(abi_option_list, value, 4);
SIZE(abi_option_list, 12);
LAYOUT(abi_pair, key, 0);
LAYOUT(abi_pair, value, 8);
SIZE(abi_pair, 16);
LAYOUT(abi_reply, content_type, 0);
LAYOUT(abi_reply, body, 8);
LAYOUT(abi_rejection, code, 0);
LAYOUT(abi_rejection, message, 8);
LAYOUT(abi_rejection, retriable, 16);
LAYOUT(abi_result, reply, 4);
LAYOUT(abi_result, rejection, 4);
SIZE(abi_result, 24);
LAYOUT(abi_migrate_result, message, 4);
SIZE(abi_migrate_result, 12);
LAYOUT(abi_scheduled, due_ms, 8);
LAYOUT(abi_scheduled, why, 8);
SIZE(abi_scheduled, 16);
LAYOUT(abi_timer, name, 0);
LAYOUT(abi_timer, due_ms, 8);
LAYOUT(abi_timer, content_type, 16);
LAYOUT(abi_timer, body, 24);
LAYOUT(abi_timer, failures, 32);
SIZE(abi_timer, 40);
LAYOUT(abi_option_timer, value, 8);
SIZE(abi_option_timer, 48);
LAYOUT(abi_firing, due_ms, 0);
LAYOUT(abi_firing, missed, 8);
LAYOUT(abi_firing, attempt, 16);
SIZE(abi_firing, 24);
LAYOUT(abi_option_firing, value, 8);
SIZE(abi_option_firing, 32);
LAYOUT(abi_expired, message, 4);
SIZE(abi_expired, 12);
LAYOUT(abi_sent, message, 4);
SIZE(abi_sent, 12);
LAYOUT(abi_address, service, 0);
LAYOUT(abi_address, session, 8);
SIZE(abi_address, 16);
LAYOUT(abi_delivery, sender, 0);
LAYOUT(abi_delivery, attempt, 16);
LAYOUT(abi_delivery, reply_wanted, 20);
SIZE(abi_delivery, 24);
LAYOUT(abi_option_rejection, value, 4);
SIZE(abi_option_rejection, 24);
LAYOUT(abi_answer, name, 0);
LAYOUT(abi_answer, sender, 8);
LAYOUT(abi_answer, refusal, 24);
LAYOUT(abi_answer, attempt, 48);
SIZE(abi_answer, 52);
LAYOUT(abi_arrival, message, 4);
LAYOUT(abi_arrival, answer, 4);
SIZE(abi_arrival, 56);
LAYOUT(abi_option_arrival, value, 4);
SIZE(abi_option_arrival, 60);
LAYOUT(abi_option_u32, value, 4);
SIZE(abi_option_u32, 8);
LAYOUT(abi_option_u8, value, 1);
SIZE(abi_option_u8, 2);
LAYOUT(abi_form, joined, 4);
SIZE(abi_form, 12);
LAYOUT(abi_streaming, kind, 0);
LAYOUT(abi_streaming, form, 8);
SIZE(abi_streaming, 20);
LAYOUT(abi_option_streaming, value, 4);
SIZE(abi_option_streaming, 24);
LAYOUT(abi_options, timeout_ms, 0);
LAYOUT(abi_options, deadline_ms, 8);
LAYOUT(abi_options, attempts, 16);
LAYOUT(abi_options, redirects, 24);
LAYOUT(abi_options, answer_bytes, 28);
LAYOUT(abi_options, keep_headers, 36);
LAYOUT(abi_options, stream, 44);
SIZE(abi_options, 68);
LAYOUT(abi_details, method, 0);
LAYOUT(abi_details, url, 8);
LAYOUT(abi_details, headers, 16);
LAYOUT(abi_details, body, 24);
LAYOUT(abi_details, options, 32);
SIZE(abi_details, 100);
LAYOUT(abi_request, id, 0);
LAYOUT(abi_request, details, 8);
LAYOUT(abi_requested, message, 4);
SIZE(abi_requested, 12);
LAYOUT(abi_response, status, 0);
LAYOUT(abi_response, headers, 4);
SIZE(abi_response, 12);
LAYOUT(abi_option_response, value, 4);
SIZE(abi_option_response, 16);
LAYOUT(abi_failure, code, 0);
LAYOUT(abi_failure, reason, 8);
LAYOUT(abi_failure, response, 16);
SIZE(abi_failure, 32);
LAYOUT(abi_outcome, response, 4);
LAYOUT(abi_outcome, failure, 4);
SIZE(abi_outcome, 36);
LAYOUT(abi_http_answer, id, 0);
LAYOUT(abi_http_answer, outcome, 8);
LAYOUT(abi_http_answer, attempts, 44);
LAYOUT(abi_http_answer, attempt, 48);
SIZE(abi_http_answer, 52);
LAYOUT(abi_option_http_answer, value, 4);
SIZE(abi_option_http_answer, 56);
LAYOUT(abi_option_presence, value, 1);
SIZE(abi_option_presence, 2);
LAYOUT(abi_identity, subject, 0);
LAYOUT(abi_identity, kind, 12);
LAYOUT(abi_identity, claims, 20);
SIZE(abi_identity, 28);
LAYOUT(abi_option_identity, value, 4);
SIZE(abi_option_identity, 32);
/* layout: end */

static abi_list lower(slotd_str text) { return (abi_list){text.data, text.size}; }
static slotd_str lift(abi_list list) { return (slotd_str){list.data, list.size}; }

/* ---- memory that the host fills -------------------------------------------------------------- */

EXPORT("cabi_realloc") void *slotd_abi_realloc(void *old, size_t old_size, size_t align,
                                               size_t size) {
    return slotd_arena_grow(slotd_host_arena, old, old_size, size, align);
}

/* ---- imports --------------------------------------------------------------------------------- */

IMPORT("state", "get") void abi_get(const char *key, size_t key_size, abi_option_list *value);
IMPORT("state", "set")
void abi_set(const char *key, size_t key_size, const char *value, size_t value_size);
IMPORT("state", "delete") void abi_delete(const char *key, size_t key_size);
IMPORT("state", "scan")
void abi_scan(const char *prefix, size_t prefix_size, int32_t is_after, const char *after,
              size_t after_size, uint32_t limit, abi_list *pairs);
IMPORT("effects", "emit")
void abi_emit(const char *kind, size_t kind_size, const char *content_type,
              size_t content_type_size, const char *body, size_t body_size);
IMPORT("session", "notify")
void abi_notify(const char *kind, size_t kind_size, const char *content_type,
                size_t content_type_size, const char *body, size_t body_size);
IMPORT("session", "expire") void abi_expire(int32_t is_at, uint64_t at_ms, abi_expired *expired);
/* The moment's payload is a number, or two texts where it is a cron expression and its zone. */
IMPORT("timers", "schedule")
void abi_schedule(const char *name, size_t name_size, int32_t when, uint64_t ms_or_expression,
                  size_t expression_size, const char *zone, size_t zone_size,
                  const char *content_type, size_t content_type_size, const char *body,
                  size_t body_size, abi_scheduled *scheduled);
IMPORT("timers", "cancel") int32_t abi_cancel(const char *name, size_t name_size);
IMPORT("timers", "get")
void abi_get_timer(const char *name, size_t name_size, abi_option_timer *timer);
IMPORT("timers", "list")
void abi_list_timers(int32_t is_after, const char *after, size_t after_size, uint32_t limit,
                     abi_list *timers);
IMPORT("timers", "current") void abi_current(abi_option_firing *firing);
IMPORT("sends", "send")
void abi_send(const char *service, size_t service_size, const char *session, size_t session_size,
              const char *content_type, size_t content_type_size, const char *body,
              size_t body_size, int32_t is_reply_as, const char *reply_as, size_t reply_as_size,
              abi_sent *sent);
IMPORT("sends", "current") void abi_arrived(abi_option_arrival *arrival);
IMPORT("http", "request") void abi_ask(const abi_request *request, abi_requested *requested);
IMPORT("http", "cancel") int32_t abi_cancel_request(const char *id, size_t id_size);
IMPORT("http", "open") void abi_open_requests(abi_list *ids);
IMPORT("http", "current") void abi_http_answered(abi_option_http_answer *answer);
IMPORT("session", "close") void abi_close(void);
IMPORT("session", "watch-subscribers") void abi_watch_subscribers(int32_t wanted);
IMPORT("session", "current") void abi_presence(abi_option_presence *presence);
IMPORT("client", "current") void abi_client(abi_option_identity *identity);
IMPORT("log", "write") void abi_log(int32_t level, const char *line, size_t size);

slotd_str slotd_host_get(slotd_str key) {
    abi_option_list value;
    abi_get(key.data, key.size, &value);
    return value.some ? lift(value.value) : (slotd_str){NULL, 0};
}

void slotd_host_set(slotd_str key, slotd_str value) {
    abi_set(key.data, key.size, value.data, value.size);
}

void slotd_host_delete(slotd_str key) { abi_delete(key.data, key.size); }

_Static_assert(sizeof(slotd_pair) == sizeof(abi_pair), "a pair is taken as the host gives it");

slotd_pair *slotd_host_scan(slotd_str prefix, slotd_str after, uint32_t limit, size_t *count) {
    abi_list pairs;
    abi_scan(prefix.data, prefix.size, after.data != NULL, after.data, after.size, limit, &pairs);
    *count = pairs.size;
    return (slotd_pair *)pairs.data;
}

void slotd_host_emit(slotd_str kind, slotd_str content_type, slotd_str body) {
    abi_emit(kind.data, kind.size, content_type.data, content_type.size, body.data, body.size);
}

void slotd_host_notify(slotd_str kind, slotd_str content_type, slotd_str body) {
    abi_notify(kind.data, kind.size, content_type.data, content_type.size, body.data, body.size);
}

slotd_str slotd_host_expire(uint64_t at_ms) {
    abi_expired expired;
    abi_expire(1, at_ms, &expired);
    return expired.error ? lift(expired.message) : (slotd_str){NULL, 0};
}

void slotd_host_keep(void) {
    abi_expired expired;
    abi_expire(0, 0, &expired);
}

slotd_str slotd_host_schedule(slotd_str name, slotd_moment when, slotd_str content_type,
                              slotd_str body, uint64_t *due_ms) {
    bool is_cron = when.kind == SLOTD_CRON;
    uint64_t payload = is_cron ? (uintptr_t)when.expression.data : when.ms;
    slotd_str none = {NULL, 0}, zone = is_cron ? when.zone : none;
    abi_scheduled scheduled;
    abi_schedule(name.data, name.size, (int32_t)when.kind, payload,
                 is_cron ? when.expression.size : 0, zone.data, zone.size, content_type.data,
                 content_type.size, body.data, body.size, &scheduled);
    if (scheduled.error) return lift(scheduled.why);
    *due_ms = scheduled.due_ms;
    return none;
}

bool slotd_host_cancel(slotd_str name) { return abi_cancel(name.data, name.size) != 0; }

_Static_assert(sizeof(slotd_timer) == sizeof(abi_timer) &&
                   offsetof(slotd_timer, due_ms) == offsetof(abi_timer, due_ms) &&
                   offsetof(slotd_timer, content_type) == offsetof(abi_timer, content_type) &&
                   offsetof(slotd_timer, body) == offsetof(abi_timer, body) &&
                   offsetof(slotd_timer, failures) == offsetof(abi_timer, failures),
               "a timer is taken as the host gives it");

bool slotd_host_timer(slotd_str name, slotd_timer *timer) {
    abi_option_timer given;
    abi_get_timer(name.data, name.size, &given);
    if (!given.some) return false;
    memcpy(timer, &given.value, sizeof *timer);
    return true;
}

slotd_timer *slotd_host_timers(slotd_str after, uint32_t limit, size_t *count) {
    abi_list timers;
    abi_list_timers(after.data != NULL, after.data, after.size, limit, &timers);
    *count = timers.size;
    return (slotd_timer *)timers.data;
}

slotd_firing slotd_host_firing(void) {
    abi_option_firing firing;
    abi_current(&firing);
    if (!firing.some) return (slotd_firing){0};
    return (slotd_firing){firing.value.due_ms, firing.value.missed, firing.value.attempt};
}

slotd_str slotd_host_send(slotd_address to, slotd_str content_type, slotd_str body,
                          slotd_str reply_as) {
    abi_sent sent;
    abi_send(to.service.data, to.service.size, to.session.data, to.session.size, content_type.data,
             content_type.size, body.data, body.size, reply_as.data != NULL, reply_as.data,
             reply_as.size, &sent);
    return sent.error ? lift(sent.message) : (slotd_str){NULL, 0};
}

static slotd_address lift_address(abi_address address) {
    return (slotd_address){lift(address.service), lift(address.session)};
}

slotd_arrival slotd_host_arrival(void) {
    abi_option_arrival given;
    abi_arrived(&given);
    if (!given.some) return (slotd_arrival){0};
    if (!given.value.is_answer) {
        abi_delivery message = given.value.message;
        return (slotd_arrival){.kind = SLOTD_MESSAGE,
                               .sender = lift_address(message.sender),
                               .attempt = message.attempt,
                               .reply_wanted = message.reply_wanted};
    }
    abi_answer answer = given.value.answer;
    slotd_arrival arrival = {.kind = SLOTD_ANSWER,
                             .sender = lift_address(answer.sender),
                             .attempt = answer.attempt,
                             .name = lift(answer.name),
                             .refused = answer.refusal.some};
    if (arrival.refused) {
        arrival.code = lift(answer.refusal.value.code);
        arrival.message = lift(answer.refusal.value.message);
        arrival.retriable = answer.refusal.value.retriable;
    }
    return arrival;
}

static abi_option_u32 lower_u32(int64_t number) {
    uint32_t value = number > UINT32_MAX ? UINT32_MAX : (uint32_t)number;
    return number < 0 ? (abi_option_u32){0, 0} : (abi_option_u32){1, value};
}

_Static_assert(sizeof(slotd_str) == sizeof(abi_list), "a list of texts is taken as it is");

slotd_str slotd_host_request(slotd_str id, const slotd_request *request) {
    abi_option_u32 redirects = lower_u32(request->redirects);
    abi_request asked = {
        .id = lower(id),
        .details = {
            .method = lower(request->method),
            .url = lower(request->url),
            .headers = {request->headers, request->header_count},
            .body = lower(request->body),
            .options = {
                .timeout_ms = lower_u32(request->timeout_ms),
                .deadline_ms = lower_u32(request->deadline_ms),
                .attempts = lower_u32(request->attempts),
                .redirects = {redirects.some,
                              redirects.value > UINT8_MAX ? UINT8_MAX : (uint8_t)redirects.value},
                .answer_bytes = lower_u32(request->answer_bytes),
                .keep_headers = {request->kept, request->kept_count},
            },
        },
    };
    if (request->form != SLOTD_SHOW_NOTHING) {
        bool is_joined = request->form == SLOTD_SHOW_JOINED;
        abi_list path = is_joined ? lower(request->path) : (abi_list){NULL, 0};
        asked.details.options.stream = (abi_option_streaming){
            1, {lower(request->kind), {(uint8_t)request->form, path}}};
    }
    abi_requested requested;
    abi_ask(&asked, &requested);
    return requested.error ? lift(requested.message) : (slotd_str){NULL, 0};
}

bool slotd_host_cancel_request(slotd_str id) { return abi_cancel_request(id.data, id.size) != 0; }

slotd_str *slotd_host_open_requests(size_t *count) {
    abi_list ids;
    abi_open_requests(&ids);
    *count = ids.size;
    return (slotd_str *)ids.data;
}

static void lift_response(slotd_http_answer *answer, abi_response response) {
    answer->status = response.status;
    answer->headers = response.headers.data;
    answer->header_count = response.headers.size;
}

slotd_http_answer slotd_host_http_answer(void) {
    abi_option_http_answer given;
    abi_http_answered(&given);
    if (!given.some) return (slotd_http_answer){0};
    const abi_outcome *outcome = &given.value.outcome;
    slotd_http_answer answer = {.id = lift(given.value.id),
                                .failed = outcome->is_failure,
                                .attempts = given.value.attempts,
                                .attempt = given.value.attempt};
    if (!answer.failed) {
        lift_response(&answer, outcome->response);
        return answer;
    }
    answer.code = lift(outcome->failure.code);
    answer.reason = lift(outcome->failure.reason);
    if (outcome->failure.response.some) lift_response(&answer, outcome->failure.response.value);
    return answer;
}

void slotd_host_close(void) { abi_close(); }

void slotd_host_watch_subscribers(bool wanted) { abi_watch_subscribers(wanted); }

slotd_presence slotd_host_presence(void) {
    abi_option_presence presence;
    abi_presence(&presence);
    if (!presence.some) return SLOTD_NO_PRESENCE;
    return presence.value ? SLOTD_ABSENT : SLOTD_PRESENT;
}

slotd_client slotd_host_client(void) {
    abi_option_identity given;
    abi_client(&given);
    if (!given.some) return (slotd_client){0};
    abi_identity identity = given.value;
    return (slotd_client){
        .kind = lift(identity.kind),
        .subject = identity.subject.some ? lift(identity.subject.value) : (slotd_str){NULL, 0},
        .claim_count = identity.claims.size,
        .claims = identity.claims.data,
    };
}

void slotd_host_log(slotd_level level, slotd_str line) {
    abi_log((int32_t)level, line.data, line.size);
}

_Noreturn void slotd_host_trap(slotd_str why) {
    (void)why;
    __builtin_trap();
}

/* ---- exports --------------------------------------------------------------------------------- */

/* Where results are; the host reads them before anything else happens here. */
static abi_result result;
static abi_migrate_result migrate_result;

static abi_result *give(slotd_result given) {
    result.error = given.kind == SLOTD_REJECTION;
    if (result.error)
        result.rejection =
            (abi_rejection){lower(given.code), lower(given.message), given.retriable};
    else
        result.reply = (abi_reply){lower(given.content_type), lower(given.body)};
    return &result;
}

/* The origin's payload is an option of a text where it is a client, else a text. */
EXPORT("handle")
abi_result *slotd_abi_handle(const char *session, size_t session_size, uint64_t seq, int32_t has_id,
                             const char *id, size_t id_size, int32_t origin, uintptr_t origin_0,
                             uintptr_t origin_1, uintptr_t origin_2, const char *content_type,
                             size_t content_type_size, const char *body, size_t body_size,
                             uint64_t time_ms) {
    slotd_cx cx = {
        .session = {session, session_size},
        .seq = seq,
        .time_ms = time_ms,
        .content_type = {content_type, content_type_size},
        .origin = (slotd_origin)origin,
    };
    if (has_id) cx.id = (slotd_str){id, id_size};
    if (origin != SLOTD_CLIENT)
        cx.origin_name = (slotd_str){(const char *)origin_0, origin_1};
    else if (origin_0)
        cx.sender = (slotd_str){(const char *)origin_1, origin_2};
    return give(slotd_run_handle(&cx, (slotd_str){body, body_size}));
}

EXPORT("query")
abi_result *slotd_abi_query(const char *session, size_t session_size, uint64_t seq,
                            const char *content_type, size_t content_type_size, const char *body,
                            size_t body_size, uint64_t time_ms) {
    slotd_cx cx = {
        .session = {session, session_size},
        .seq = seq,
        .time_ms = time_ms,
        .content_type = {content_type, content_type_size},
    };
    return give(slotd_run_query(&cx, (slotd_str){body, body_size}));
}

EXPORT("migrate") abi_migrate_result *slotd_abi_migrate(const char *from, size_t from_size) {
    slotd_cx cx = {.session = {"", 0}, .content_type = {"", 0}};
    const char *refusal = slotd_run_migrate(&cx, (slotd_str){from, from_size});
    /* The host takes a `migrate` that never looks at the state for none. */
    if (!refusal && slotd_this_handler.migrate) {
        abi_list none;
        abi_scan("", 0, 0, "", 0, 0, &none);
    }
    migrate_result.error = refusal != NULL;
    migrate_result.message = lower(slotd_str_of(refusal));
    return &migrate_result;
}

EXPORT("cabi_post_handle") void slotd_abi_post_handle(abi_result *r) { (void)r, slotd_end_call(); }
EXPORT("cabi_post_query") void slotd_abi_post_query(abi_result *r) { (void)r, slotd_end_call(); }
EXPORT("cabi_post_migrate") void slotd_abi_post_migrate(abi_migrate_result *r) {
    (void)r, slotd_end_call();
}
#endif
