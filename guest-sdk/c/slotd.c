/* The call: its memory, its context, what a handler can do in it. */
#include "internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The host drops what is longer. */
#define LINE_BYTES_MAX 2048
/* Most scans are short, or taken from the front: begin small, grow to the host's limit. */
#define PAGE_FIRST 64
#define PAGE_MAX 1000
/* Of the call's memory, what is kept for the next call. */
#define CHUNK_BYTES (16 * 1024)
#define CHUNK_BYTES_MAX (1024 * 1024)

const char *slotd_here;

/* ---- traps and the log ---------------------------------------------------------------------- */

/* The host takes UTF-8 only: what is cut in the middle of a character, or never was text, must not
 * turn a line of the log into a trap. */
void slotd_make_utf8(char *line, size_t size) {
    if (slotd_is_utf8((slotd_str){line, size})) return;
    for (size_t i = 0; i < size;) {
        size_t bytes = 1;
        while (bytes < 4 && i + bytes < size && (line[i + bytes] & 0xc0) == 0x80) bytes++;
        if (!slotd_is_utf8((slotd_str){line + i, bytes})) memset(line + i, '?', bytes);
        i += bytes;
    }
}

static char line[LINE_BYTES_MAX + 1];

static slotd_str print_line(size_t at, const char *format, va_list args) {
    int wanted = vsnprintf(line + at, sizeof line - at, format, args);
    size_t room = sizeof line - at - 1;
    size_t size = at + (wanted < 0 ? 0 : (size_t)wanted < room ? (size_t)wanted : room);
    slotd_make_utf8(line, size);
    return (slotd_str){line, size};
}

/* What was printed without an end of line must not wait for the next call. */
static void end_printing(void) {
    fflush(NULL);
    slotd_end_lines();
}

static _Noreturn void trap(size_t at, const char *format, va_list args) {
    slotd_str why = print_line(at, format, args);
    slotd_host_log(SLOTD_ERROR, why);
    slotd_host_trap(why);
}

_Noreturn void slotd_trap_at(const char *file, int number, const char *function,
                             const char *format, ...) {
    end_printing();
    int at = snprintf(line, sizeof line, "%s:%d: ", file, number);
    if (function) at = snprintf(line, sizeof line, "%s:%d: in %s: ", file, number, function);
    va_list args;
    va_start(args, format);
    trap(at < 0 || (size_t)at >= sizeof line ? 0 : (size_t)at, format, args);
}

/* Ends a call that used the SDK in a way that cannot be. */
static __attribute__((format(printf, 1, 2))) _Noreturn void misused(const char *format, ...) {
    end_printing();
    int at = slotd_here ? snprintf(line, sizeof line, "%s: ", slotd_here) : 0;
    va_list args;
    va_start(args, format);
    trap(at < 0 || (size_t)at >= sizeof line ? 0 : (size_t)at, format, args);
}

_Noreturn void slotd_misused(const char *what) { misused("%s", what); }

void slotd_log(slotd_level level, const char *format, ...) {
    if ((unsigned)level > SLOTD_ERROR) level = SLOTD_ERROR;
    va_list args;
    va_start(args, format);
    slotd_str text = print_line(0, format, args);
    va_end(args);
    slotd_host_log(level, text);
}

/* ---- memory --------------------------------------------------------------------------------- */

struct slotd_chunk {
    struct slotd_chunk *before;
    size_t size, used;
    _Alignas(max_align_t) char bytes[];
};

slotd_arena slotd_call_arena;
slotd_arena *slotd_host_arena = &slotd_call_arena;

static _Noreturn void no_memory(size_t size) { misused("out of memory: %zu bytes", size); }

void *slotd_arena_get(slotd_arena *arena, size_t size, size_t align) {
    struct slotd_chunk *chunk = arena->chunk;
    size_t at = chunk ? (chunk->used + align - 1) & ~(align - 1) : 0;
    if (!chunk || at >= chunk->size || size >= chunk->size - at) {
        size_t chunk_size = chunk ? chunk->size * 2 : CHUNK_BYTES;
        if (chunk_size > CHUNK_BYTES_MAX) chunk_size = CHUNK_BYTES_MAX;
        if (size > SIZE_MAX / 2) no_memory(size);
        if (chunk_size < size + 1) chunk_size = size + 1;
        struct slotd_chunk *next = malloc(sizeof *next + chunk_size);
        if (!next) no_memory(size);
        next->before = chunk;
        next->size = chunk_size;
        arena->chunk = chunk = next;
        at = 0;
    }
    char *got = chunk->bytes + at;
    got[size] = 0;
    chunk->used = at + size + 1;
    return got;
}

void *slotd_arena_grow(slotd_arena *arena, void *old, size_t old_size, size_t size, size_t align) {
    struct slotd_chunk *chunk = arena->chunk;
    char *bytes = old;
    if (old_size && chunk && bytes >= chunk->bytes && bytes < chunk->bytes + chunk->size) {
        size_t at = (size_t)(bytes - chunk->bytes);
        if (at + old_size + 1 == chunk->used && size < chunk->size - at) {
            bytes[size] = 0;
            chunk->used = at + size + 1;
            return old;
        }
    }
    char *moved = slotd_arena_get(arena, size, align);
    if (old_size) memcpy(moved, old, old_size < size ? old_size : size);
    return moved;
}

/* Frees the chunks above `keep`. */
static void free_down_to(slotd_arena *arena, struct slotd_chunk *keep) {
    while (arena->chunk != keep) {
        struct slotd_chunk *chunk = arena->chunk;
        arena->chunk = chunk->before;
        free(chunk);
    }
}

void slotd_arena_reset(slotd_arena *arena) {
    struct slotd_chunk *first = arena->chunk;
    while (first && first->before) first = first->before;
    /* Of a usual size: the first may be as large as a message. */
    if (first && first->size > CHUNK_BYTES) first = NULL;
    free_down_to(arena, first);
    if (first) first->used = 0;
}

void slotd_arena_free(slotd_arena *arena) { free_down_to(arena, NULL); }

void *slotd_alloc(size_t size) {
    return memset(slotd_arena_get(&slotd_call_arena, size, _Alignof(max_align_t)), 0, size);
}

slotd_str slotd_copy(slotd_str text) {
    if (!text.data) return text;
    char *copy = slotd_arena_get(&slotd_call_arena, text.size, 1);
    if (text.size) memcpy(copy, text.data, text.size);
    return (slotd_str){copy, text.size};
}

slotd_str slotd_utf8(slotd_str bytes) {
    slotd_str copy = slotd_copy(bytes);
    slotd_make_utf8((char *)copy.data, copy.size);
    return copy;
}

slotd_mark slotd_mark_here(void) {
    struct slotd_chunk *chunk = slotd_call_arena.chunk;
    return (slotd_mark){chunk, chunk ? chunk->used : 0};
}

void slotd_release(slotd_mark mark) {
    for (struct slotd_chunk *chunk = slotd_call_arena.chunk; chunk != mark.chunk;
         chunk = chunk->before)
        if (!chunk) misused("slotd_release of a mark that was released before");
    free_down_to(&slotd_call_arena, mark.chunk);
    if (mark.chunk && mark.used <= slotd_call_arena.chunk->used)
        slotd_call_arena.chunk->used = mark.used;
}

const char *slotd_format(const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (size < 0) misused("a format that cannot be printed: %s", format);
    char *text = slotd_arena_get(&slotd_call_arena, (size_t)size, 1);
    vsnprintf(text, (size_t)size + 1, format, again);
    va_end(again);
    return text;
}

/* ---- text ----------------------------------------------------------------------------------- */

bool slotd_equal(slotd_str a, slotd_str b) {
    return a.size == b.size && (!a.size || !memcmp(a.data, b.data, a.size));
}

bool slotd_starts_with(slotd_str text, slotd_str prefix) {
    return text.size >= prefix.size &&
           (!prefix.size || !memcmp(text.data, prefix.data, prefix.size));
}

slotd_str slotd_from(slotd_str text, size_t from) {
    if (from > text.size) from = text.size;
    return text.data ? (slotd_str){text.data + from, text.size - from} : text;
}

static void want_utf8(slotd_str text, const char *what) {
    if (!slotd_is_utf8(text)) misused("%s is not UTF-8", what);
}

/* ---- the call ------------------------------------------------------------------------------- */

typedef struct scan {
    slotd_scan at; /* the first, so that the one is the other */
    struct scan *before;
    slotd_arena page_arena;
    slotd_str prefix, after;
    slotd_pair *page;
    size_t count, next;
    uint32_t limit;
} scan;

static struct {
    slotd_call_kind kind;
    bool under_way;
    const slotd_cx *cx;
    /* The rejection that the call ends in whatever the handler returns, and its text, which a
     * slotd_release must not free. */
    slotd_result refusal;
    slotd_arena refusal_arena;
    scan *scans;
    uint64_t seed_seq;
    slotd_str seed_of;
    bool seeded;
    uint64_t random_key[2], random_count;
} call;

static const char *bad_body(void) { return call.kind == SLOTD_QUERY ? "bad-query" : "bad-message"; }
static const char *body_name(void) { return call.kind == SLOTD_QUERY ? "query" : "message"; }

static slotd_result rejection(slotd_arena *arena, const char *code, bool retriable,
                              const char *format, va_list args) {
    slotd_str code_text = slotd_str_of(code);
    want_utf8(code_text, "a rejection's code");
    char *code_copy = slotd_arena_get(arena, code_text.size, 1);
    if (code_text.size) memcpy(code_copy, code, code_text.size);
    va_list again;
    va_copy(again, args);
    int size = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (size < 0) misused("a format that cannot be printed: %s", format);
    char *text = slotd_arena_get(arena, (size_t)size, 1);
    vsnprintf(text, (size_t)size + 1, format, args);
    slotd_make_utf8(text, (size_t)size);
    return (slotd_result){
        .kind = SLOTD_REJECTION,
        .code = {code_copy, code_text.size},
        .message = {text, (size_t)size},
        .retriable = retriable,
    };
}

slotd_result slotd_reject(const char *code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    slotd_result result = rejection(&slotd_call_arena, code, false, format, args);
    va_end(args);
    return result;
}

slotd_result slotd_reject_for_now(const char *code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    slotd_result result = rejection(&slotd_call_arena, code, true, format, args);
    va_end(args);
    return result;
}

/* From then on nothing is asked of the host: an empty key, where a member was not there, would
 * make a trap of the rejection. */
static bool is_refused(void) { return call.refusal.kind != SLOTD_NO_RESULT; }

/* The first reason stands: what comes after it may come of it. */
static __attribute__((format(printf, 2, 3))) void refuse(const char *code, const char *format,
                                                         ...) {
    if (is_refused()) return;
    va_list args;
    va_start(args, format);
    call.refusal = rejection(&call.refusal_arena, code, false, format, args);
    va_end(args);
}

bool slotd_refused(const slotd_cx *cx) {
    (void)cx;
    return is_refused();
}

uint64_t slotd_time_ms(const slotd_cx *cx) { return cx->time_ms; }

bool slotd_call_time(uint64_t *time_ms) {
    if (!call.under_way || call.kind == SLOTD_MIGRATE) return false;
    *time_ms = call.cx->time_ms;
    return true;
}

slotd_result slotd_reply(const slotd_json *value) {
    return (slotd_result){
        .kind = SLOTD_REPLY,
        .content_type = slotd_str_of("application/json"),
        .body = slotd_write(value),
    };
}

slotd_result slotd_reply_bytes(slotd_str content_type, slotd_str body) {
    want_utf8(content_type, "a reply's content type");
    return (slotd_result){
        .kind = SLOTD_REPLY,
        .content_type = slotd_copy(content_type),
        .body = slotd_copy(body),
    };
}

/* ---- chance --------------------------------------------------------------------------------- */

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
    v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

/* SipHash-2-4, of what is fed byte by byte. */
typedef struct sip {
    uint64_t v[4], word;
    size_t size;
} sip;

static sip sip_begin(uint64_t key0, uint64_t key1) {
    return (sip){.v = {key0 ^ 0x736f6d6570736575, key1 ^ 0x646f72616e646f6d,
                       key0 ^ 0x6c7967656e657261, key1 ^ 0x7465646279746573}};
}

static void sip_word(sip *s) {
    s->v[3] ^= s->word;
    sip_round(s->v), sip_round(s->v);
    s->v[0] ^= s->word;
    s->word = 0;
}

static void sip_feed(sip *s, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t i = 0; i < size; i++) {
        s->word |= (uint64_t)bytes[i] << (8 * (s->size & 7));
        if ((++s->size & 7) == 0) sip_word(s);
    }
}

static uint64_t sip_end(sip *s) {
    s->word |= (uint64_t)(s->size & 0xff) << 56;
    sip_word(s);
    s->v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) sip_round(s->v);
    return s->v[0] ^ s->v[1] ^ s->v[2] ^ s->v[3];
}

static void seed(void) {
    for (uint64_t i = 0; i < 2; i++) {
        sip s = sip_begin(i, ~i);
        unsigned char kind = (unsigned char)call.kind;
        sip_feed(&s, call.seed_of.data, call.seed_of.size);
        sip_feed(&s, &kind, 1);
        sip_feed(&s, &call.seed_seq, sizeof call.seed_seq);
        call.random_key[i] = sip_end(&s);
    }
    call.seeded = true;
}

void slotd_call_random(void *out, size_t size) {
    if (!call.seeded) seed();
    unsigned char *bytes = out;
    while (size) {
        sip s = sip_begin(call.random_key[0], call.random_key[1]);
        sip_feed(&s, &call.random_count, sizeof call.random_count);
        uint64_t block = sip_end(&s);
        call.random_count++;
        size_t now = size < sizeof block ? size : sizeof block;
        memcpy(bytes, &block, now);
        bytes += now, size -= now;
    }
}

/* libc's own keep a state between calls, which no seed of ours begins anew. */
void arc4random_buf(void *, size_t);
uint32_t arc4random(void);
uint32_t arc4random_uniform(uint32_t);
void arc4random_buf(void *out, size_t size) { slotd_call_random(out, size); }
uint32_t arc4random(void) {
    uint32_t number;
    slotd_call_random(&number, sizeof number);
    return number;
}
uint32_t arc4random_uniform(uint32_t below) {
    if (below < 2) return 0;
    /* Without the first few, of which there would be too many. */
    uint32_t number, skip = -below % below;
    do number = arc4random();
    while (number < skip);
    return number % below;
}

/* libc's own generators, where the handler uses them: what is not linked is NULL. */
extern void srand(unsigned) __attribute__((weak));
extern void srandom(unsigned) __attribute__((weak));
extern void srand48(long) __attribute__((weak));

static void seed_libc(void) {
    if (!srand && !srandom && !srand48) return;
    uint32_t seeds[3];
    slotd_call_random(seeds, sizeof seeds);
    if (srand) srand(seeds[0]);
    if (srandom) srandom(seeds[1]);
    if (srand48) srand48((long)seeds[2]);
}

/* ---- running a handler ---------------------------------------------------------------------- */

static void begin(slotd_call_kind kind, slotd_cx *cx, slotd_str seed_of) {
    memset(&call, 0, sizeof call);
    call.kind = kind;
    call.cx = cx;
    call.under_way = true;
    slotd_here = NULL;
    errno = 0;
    call.seed_of = seed_of;
    call.seed_seq = cx->seq;
    seed_libc();
}

/* What a handler's result comes to. */
static slotd_result finish(slotd_result result, const char *function) {
    slotd_here = NULL;
    end_printing();
    if (is_refused()) return call.refusal;
    if (result.kind != SLOTD_REPLY && result.kind != SLOTD_REJECTION)
        misused("`%s` returned nothing: return slotd_reply(..) or slotd_reject(..)", function);
    return result;
}

static const slotd_json *parse_body(slotd_str body) {
    const char *why = NULL;
    /* The body is this call's own, in its arena, and nobody else's. */
    const slotd_json *value =
        slotd_parse_here(&slotd_call_arena, (char *)body.data, body.size, &why);
    if (!value) refuse(bad_body(), "the %s is not understood: %s", body_name(), why);
    return value;
}

/* What came of a message that was sent is not of the form of the messages: it has a function of its
 * own. */
static slotd_result run_answer(slotd_cx *cx, const slotd_arrival *answer, slotd_str body) {
    const slotd_handler *own = &slotd_this_handler;
    if (!own->answer)
        return finish(slotd_reject("no-answers", "this plugin takes no answers"), "answer");
    const slotd_json *reply = answer->refused ? NULL : parse_body(body);
    bool is_whole = answer->refused || reply;
    return finish(is_whole ? own->answer(cx, answer, reply) : call.refusal, "answer");
}

/* What a handler does not say stands here; what it says goes before it. */
__attribute__((weak)) const slotd_http_handler slotd_this_http_handler = {NULL, NULL};
__attribute__((weak)) const slotd_presence_handler slotd_this_presence_handler = {NULL, NULL};

static slotd_result run_http_answer(slotd_cx *cx, slotd_str body) {
    const slotd_http_handler *own = &slotd_this_http_handler;
    if (!own->handle)
        return finish(slotd_reject("no-requests", "this plugin takes no answers of requests"),
                      "handle");
    slotd_http_answer answer = own->answered(cx);
    return finish(own->handle(cx, &answer, body), "SLOTD_HTTP_ANSWERS");
}

slotd_result slotd_run_handle(slotd_cx *cx, slotd_str body) {
    begin(SLOTD_HANDLE, cx, cx->session);
    const slotd_handler *own = &slotd_this_handler;
    if (cx->origin == SLOTD_HTTP && (slotd_this_http_handler.handle || !own->handle_bytes))
        return run_http_answer(cx, body);
    if (cx->origin == SLOTD_SESSION && slotd_this_presence_handler.handle) {
        slotd_presence presence = slotd_this_presence_handler.told(cx);
        if (presence != SLOTD_NO_PRESENCE)
            return finish(slotd_this_presence_handler.handle(cx, presence == SLOTD_PRESENT),
                          "SLOTD_PRESENCE");
    }
    if (cx->origin == SLOTD_SESSION && (own->answer || !own->handle_bytes)) {
        slotd_arrival arrival = slotd_host_arrival();
        if (arrival.kind == SLOTD_ANSWER) return run_answer(cx, &arrival, body);
        /* What is of a session and has not arrived is of its subscribers. */
        if (arrival.kind == SLOTD_NO_ARRIVAL && !own->handle_bytes)
            return finish(slotd_reject("no-presence", "this plugin is not told of subscribers"),
                          "handle");
    }
    if (own->handle_bytes) return finish(own->handle_bytes(cx, body), "handle_bytes");
    if (!own->handle) misused("SLOTD_HANDLER has neither a .handle nor a .handle_bytes");
    const slotd_json *message = parse_body(body);
    return finish(message ? own->handle(cx, message) : call.refusal, "handle");
}

slotd_result slotd_run_query(slotd_cx *cx, slotd_str body) {
    begin(SLOTD_QUERY, cx, cx->session);
    const slotd_handler *own = &slotd_this_handler;
    if (own->query_bytes) return finish(own->query_bytes(cx, body), "query_bytes");
    if (!own->query)
        return finish(slotd_reject("no-queries", "this plugin answers no queries"), "query");
    const slotd_json *query = parse_body(body);
    return finish(query ? own->query(cx, query) : call.refusal, "query");
}

const char *slotd_run_migrate(slotd_cx *cx, slotd_str from) {
    begin(SLOTD_MIGRATE, cx, from);
    if (!slotd_this_handler.migrate) return NULL;
    const char *refusal = slotd_this_handler.migrate(cx, from.data);
    slotd_here = NULL;
    end_printing();
    if (is_refused()) return call.refusal.message.data;
    if (!refusal) return NULL;
    char *text = (char *)slotd_copy(slotd_str_of(refusal)).data;
    slotd_make_utf8(text, strlen(text));
    return text;
}

void slotd_end_call(void) {
    for (scan *scan = call.scans, *before; scan; scan = before) {
        before = scan->before;
        slotd_arena_free(&scan->page_arena);
        free(scan);
    }
    slotd_arena_free(&call.refusal_arena);
    memset(&call, 0, sizeof call);
    slotd_host_arena = &slotd_call_arena;
    slotd_arena_reset(&slotd_call_arena);
}

/* ---- members that must be there ------------------------------------------------------------- */

const slotd_json *slotd_need(const slotd_cx *cx, const slotd_json *message, slotd_str name) {
    (void)cx;
    const slotd_json *value = slotd_member(message, name);
    if (value) return value;
    refuse(bad_body(), "the %s is not understood: it needs `%.*s`", body_name(), SLOTD_ARG(name));
    return slotd_null();
}

static void needs(slotd_str name, const char *what) {
    refuse(bad_body(), "the %s is not understood: `%.*s` is %s", body_name(), SLOTD_ARG(name), what);
}

slotd_str slotd_need_text(const slotd_cx *cx, const slotd_json *message, slotd_str name) {
    slotd_str text = {"", 0};
    if (!slotd_as_text(slotd_need(cx, message, name), &text)) needs(name, "a text");
    return text;
}

uint64_t slotd_need_u64(const slotd_cx *cx, const slotd_json *message, slotd_str name) {
    uint64_t number = 0;
    if (!slotd_as_u64(slotd_need(cx, message, name), &number))
        needs(name, "a whole number of 0 or more");
    return number;
}

int64_t slotd_need_i64(const slotd_cx *cx, const slotd_json *message, slotd_str name) {
    int64_t number = 0;
    if (!slotd_as_i64(slotd_need(cx, message, name), &number)) needs(name, "a whole number");
    return number;
}

double slotd_need_f64(const slotd_cx *cx, const slotd_json *message, slotd_str name) {
    double number = 0;
    if (!slotd_as_f64(slotd_need(cx, message, name), &number)) needs(name, "a number");
    return number;
}

bool slotd_need_bool(const slotd_cx *cx, const slotd_json *message, slotd_str name) {
    bool value = false;
    if (!slotd_as_bool(slotd_need(cx, message, name), &value)) needs(name, "true or false");
    return value;
}

/* ---- state ---------------------------------------------------------------------------------- */

static void bad_state(slotd_str key, const char *why) {
    refuse("bad-state", "the state under \"%.*s\" is not what this plugin expects: %s",
           SLOTD_ARG(key), why);
}

slotd_str slotd_get_bytes(const slotd_cx *cx, slotd_str key) {
    (void)cx;
    want_utf8(key, "a key");
    return is_refused() ? (slotd_str){NULL, 0} : slotd_host_get(key);
}

const slotd_json *slotd_get(const slotd_cx *cx, slotd_str key) {
    slotd_str value = slotd_get_bytes(cx, key);
    if (!value.data) return NULL;
    const char *why = NULL;
    const slotd_json *json =
        slotd_parse_here(&slotd_call_arena, (char *)value.data, value.size, &why);
    if (!json) bad_state(key, why);
    return json;
}

uint64_t slotd_get_u64(const slotd_cx *cx, slotd_str key, uint64_t otherwise) {
    const slotd_json *value = slotd_get(cx, key);
    if (value && !slotd_as_u64(value, &otherwise)) bad_state(key, "no whole number of 0 or more");
    return otherwise;
}

int64_t slotd_get_i64(const slotd_cx *cx, slotd_str key, int64_t otherwise) {
    const slotd_json *value = slotd_get(cx, key);
    if (value && !slotd_as_i64(value, &otherwise)) bad_state(key, "no whole number");
    return otherwise;
}

slotd_str slotd_get_text(const slotd_cx *cx, slotd_str key) {
    const slotd_json *value = slotd_get(cx, key);
    slotd_str text = {NULL, 0};
    if (value && !slotd_as_text(value, &text)) bad_state(key, "no text");
    return text;
}

void slotd_set_bytes(slotd_cx *cx, slotd_str key, slotd_str value) {
    (void)cx;
    want_utf8(key, "a key");
    if (!is_refused()) slotd_host_set(key, value);
}

void slotd_set(slotd_cx *cx, slotd_str key, const slotd_json *value) {
    slotd_set_bytes(cx, key, slotd_write(value));
}

void slotd_delete(slotd_cx *cx, slotd_str key) {
    (void)cx;
    want_utf8(key, "a key");
    if (!is_refused()) slotd_host_delete(key);
}

slotd_scan *slotd_scan_after(const slotd_cx *cx, slotd_str prefix, slotd_str after) {
    (void)cx;
    want_utf8(prefix, "a prefix");
    want_utf8(after, "a key");
    /* Of its own: it outlives a slotd_release. */
    size_t size = prefix.size + after.size;
    scan *scan = size < SIZE_MAX / 2 ? calloc(1, sizeof *scan + size) : NULL;
    if (!scan) no_memory(size);
    char *text = (char *)(scan + 1);
    if (prefix.size) memcpy(text, prefix.data, prefix.size);
    scan->prefix = (slotd_str){text, prefix.size};
    if (after.data) {
        if (after.size) memcpy(text + prefix.size, after.data, after.size);
        scan->after = (slotd_str){text + prefix.size, after.size};
    }
    scan->limit = PAGE_FIRST;
    scan->before = call.scans;
    call.scans = scan;
    return &scan->at;
}

slotd_scan *slotd_scan_all(const slotd_cx *cx, slotd_str prefix) {
    return slotd_scan_after(cx, prefix, (slotd_str){NULL, 0});
}

slotd_pair *slotd_page(const slotd_cx *cx, slotd_str prefix, slotd_str after, uint32_t limit,
                       size_t *count) {
    (void)cx;
    want_utf8(prefix, "a prefix");
    want_utf8(after, "a key");
    *count = 0;
    return is_refused() ? NULL : slotd_host_scan(prefix, after, limit, count);
}

/* A page and what is read from it has an arena of its own, so that a long scan needs no more
 * memory than a page. */
static void turn_page(scan *scan) {
    /* The last key is in the page that is freed. */
    if (is_refused()) {
        scan->count = scan->next = 0;
        return;
    }
    slotd_arena old = scan->page_arena;
    scan->page_arena = (slotd_arena){NULL};
    slotd_host_arena = &scan->page_arena;
    scan->page = slotd_host_scan(scan->prefix, scan->after, scan->limit, &scan->count);
    slotd_host_arena = &slotd_call_arena;
    slotd_arena_free(&old);
    scan->next = 0;
    /* A host may end a page early; only an empty one says that there is no more. */
    if (scan->count) scan->after = scan->page[scan->count - 1].key;
    scan->limit = scan->limit * 4 < PAGE_MAX ? scan->limit * 4 : PAGE_MAX;
}

bool slotd_next(slotd_scan *at) {
    scan *scan = (struct scan *)at;
    if (scan->next == scan->count) {
        if (scan->limit == 0) return false;
        turn_page(scan);
        if (!scan->count) {
            scan->limit = 0;
            *at = (slotd_scan){{NULL, 0}, {NULL, 0}};
            return false;
        }
    }
    at->key = scan->page[scan->next].key;
    at->value = scan->page[scan->next].value;
    scan->next++;
    return true;
}

const slotd_json *slotd_value(slotd_scan *at) {
    if (!at->value.data) return NULL;
    slotd_arena *arena = &((struct scan *)at)->page_arena;
    const char *why = NULL;
    /* A copy: the value may be read again. */
    char *text = slotd_arena_get(arena, at->value.size, 1);
    memcpy(text, at->value.data, at->value.size);
    const slotd_json *json = slotd_parse_here(arena, text, at->value.size, &why);
    if (!json) bad_state(at->key, why);
    return json;
}

uint64_t slotd_value_u64(slotd_scan *at) {
    uint64_t number = 0;
    const slotd_json *value = slotd_value(at);
    if (value && !slotd_as_u64(value, &number)) bad_state(at->key, "no whole number of 0 or more");
    return number;
}

/* ---- events --------------------------------------------------------------------------------- */

void slotd_emit_bytes(slotd_cx *cx, slotd_str kind, slotd_str content_type, slotd_str body) {
    (void)cx;
    want_utf8(kind, "an event's kind");
    want_utf8(content_type, "an event's content type");
    if (!is_refused()) slotd_host_emit(kind, content_type, body);
}

void slotd_emit(slotd_cx *cx, slotd_str kind, const slotd_json *value) {
    slotd_emit_bytes(cx, kind, slotd_str_of("application/json"), slotd_write(value));
}

void slotd_notify_bytes(slotd_cx *cx, slotd_str kind, slotd_str content_type, slotd_str body) {
    (void)cx;
    want_utf8(kind, "an event's kind");
    want_utf8(content_type, "an event's content type");
    if (!is_refused()) slotd_host_notify(kind, content_type, body);
}

void slotd_notify(slotd_cx *cx, slotd_str kind, const slotd_json *value) {
    slotd_notify_bytes(cx, kind, slotd_str_of("application/json"), slotd_write(value));
}

/* ---- timers --------------------------------------------------------------------------------- */

uint64_t slotd_timer_set(slotd_cx *cx, slotd_str name, slotd_moment when, slotd_str content_type,
                         slotd_str body, const char **why) {
    (void)cx;
    want_utf8(name, "a timer's name");
    want_utf8(content_type, "a timer's content type");
    want_utf8(when.expression, "a cron expression");
    want_utf8(when.zone, "a time zone");
    if ((unsigned)when.kind > SLOTD_CRON) misused("a moment of no kind that there is");
    if (why) *why = NULL;
    if (is_refused()) return 0;
    uint64_t due_ms = 0;
    slotd_str problem = slotd_host_schedule(name, when, content_type, body, &due_ms);
    if (!problem.data) return due_ms;
    if (why)
        *why = problem.data;
    else
        refuse("bad-moment", "%.*s", SLOTD_ARG(problem));
    return 0;
}

static uint64_t set_timer(slotd_cx *cx, slotd_str name, slotd_moment when, const slotd_json *body) {
    return slotd_timer_set(cx, name, when, slotd_str_of("application/json"), slotd_write(body),
                           NULL);
}

uint64_t slotd_timer_at(slotd_cx *cx, slotd_str name, uint64_t time_ms, const slotd_json *body) {
    return set_timer(cx, name, slotd_moment_at(time_ms), body);
}

uint64_t slotd_timer_after(slotd_cx *cx, slotd_str name, uint64_t delay_ms,
                           const slotd_json *body) {
    return set_timer(cx, name, slotd_moment_after(delay_ms), body);
}

uint64_t slotd_timer_every(slotd_cx *cx, slotd_str name, uint64_t period_ms,
                           const slotd_json *body) {
    return set_timer(cx, name, slotd_moment_every(period_ms), body);
}

uint64_t slotd_timer_cron(slotd_cx *cx, slotd_str name, slotd_str expression, slotd_str zone,
                          const slotd_json *body) {
    return set_timer(cx, name, slotd_moment_cron(expression, zone), body);
}

bool slotd_timer_cancel(slotd_cx *cx, slotd_str name) {
    (void)cx;
    want_utf8(name, "a timer's name");
    return !is_refused() && slotd_host_cancel(name);
}

const slotd_timer *slotd_timer_get(const slotd_cx *cx, slotd_str name) {
    (void)cx;
    want_utf8(name, "a timer's name");
    slotd_timer timer;
    if (is_refused() || !slotd_host_timer(name, &timer)) return NULL;
    slotd_timer *given = slotd_alloc(sizeof timer);
    *given = timer;
    return given;
}

const slotd_timer *slotd_timer_list(const slotd_cx *cx, slotd_str after, uint32_t limit,
                                    size_t *count) {
    (void)cx;
    want_utf8(after, "a timer's name");
    *count = 0;
    return is_refused() ? NULL : slotd_host_timers(after, limit, count);
}

slotd_firing slotd_timer_firing(const slotd_cx *cx) {
    if (cx->origin != SLOTD_TIMER || is_refused()) return (slotd_firing){0};
    return slotd_host_firing();
}

/* ---- sessions that expire --------------------------------------------------------------------- */

void slotd_expire_set(slotd_cx *cx, uint64_t time_ms, const char **why) {
    (void)cx;
    if (why) *why = NULL;
    if (is_refused()) return;
    slotd_str problem = slotd_host_expire(time_ms);
    if (!problem.data) return;
    if (why)
        *why = problem.data;
    else
        refuse("bad-moment", "%.*s", SLOTD_ARG(problem));
}

void slotd_expire_at(slotd_cx *cx, uint64_t time_ms) { slotd_expire_set(cx, time_ms, NULL); }

void slotd_expire_after(slotd_cx *cx, uint64_t delay_ms) {
    uint64_t left_ms = UINT64_MAX - cx->time_ms;
    slotd_expire_at(cx, cx->time_ms + (delay_ms < left_ms ? delay_ms : left_ms));
}

void slotd_keep(slotd_cx *cx) {
    (void)cx;
    if (!is_refused()) slotd_host_keep();
}

/* ---- messages to other sessions -------------------------------------------------------------- */

slotd_address slotd_address_of(slotd_str text) {
    const char *slash = text.size ? memchr(text.data, '/', text.size) : NULL;
    if (!slash) return (slotd_address){text, {NULL, 0}};
    size_t size = (size_t)(slash - text.data);
    slotd_str service = {text.data, size}, session = {slash + 1, text.size - size - 1};
    return (slotd_address){slotd_copy(service), slotd_copy(session)};
}

void slotd_send_bytes_to(slotd_cx *cx, slotd_address to, slotd_str content_type, slotd_str body,
                         slotd_str reply_as, const char **why) {
    (void)cx;
    want_utf8(to.service, "the name of a service");
    want_utf8(to.session, "the id of a session");
    want_utf8(content_type, "a message's content type");
    want_utf8(reply_as, "the name of a reply");
    if (why) *why = NULL;
    if (is_refused()) return;
    slotd_str problem;
    if (to.session.data)
        problem = slotd_host_send(to, content_type, body, reply_as);
    else
        problem = slotd_str_of(slotd_format(
            "\"%.*s\" is no address of a session: it has the form service/session",
            SLOTD_ARG(to.service)));
    if (!problem.data) return;
    if (why)
        *why = problem.data;
    else
        refuse("bad-send", "%.*s", SLOTD_ARG(problem));
}

void slotd_send_to(slotd_cx *cx, slotd_str to, const slotd_json *body) {
    slotd_send_for_reply(cx, to, (slotd_str){NULL, 0}, body);
}

void slotd_send_for_reply(slotd_cx *cx, slotd_str to, slotd_str reply_as, const slotd_json *body) {
    slotd_send_bytes_to(cx, slotd_address_of(to), slotd_str_of("application/json"),
                        slotd_write(body), reply_as, NULL);
}

slotd_arrival slotd_arrived(const slotd_cx *cx) {
    if (cx->origin != SLOTD_SESSION || is_refused()) return (slotd_arrival){0};
    return slotd_host_arrival();
}

/* ---- requests over HTTP ---------------------------------------------------------------------- */

slotd_request *slotd_request_to(slotd_str method, slotd_str url) {
    slotd_request *request = slotd_alloc(sizeof *request);
    *request = (slotd_request){
        .method = slotd_copy(method),
        .url = slotd_copy(url),
        .timeout_ms = -1,
        .deadline_ms = -1,
        .attempts = -1,
        .redirects = -1,
        .answer_bytes = -1,
        .form = SLOTD_SHOW_NOTHING,
    };
    return request;
}

/* Room for one more: doubles at each power of two. */
static void *one_more(void *items, size_t count, size_t size) {
    if (count & (count - 1)) return items;
    return slotd_arena_grow(&slotd_call_arena, items, count * size, (count ? count * 2 : 1) * size,
                            _Alignof(max_align_t));
}

void slotd_request_header(slotd_request *request, slotd_str name, slotd_str value) {
    request->headers = one_more(request->headers, request->header_count, sizeof(slotd_pair));
    request->headers[request->header_count++] = (slotd_pair){slotd_copy(name), slotd_copy(value)};
}

void slotd_request_body(slotd_request *request, slotd_str content_type, slotd_str body) {
    slotd_request_header(request, slotd_str_of("content-type"), content_type);
    request->body = slotd_copy(body);
}

void slotd_request_json(slotd_request *request, const slotd_json *body) {
    slotd_request_body(request, slotd_str_of("application/json"), slotd_write(body));
}

void slotd_request_keep(slotd_request *request, slotd_str header) {
    request->kept = one_more(request->kept, request->kept_count, sizeof(slotd_str));
    request->kept[request->kept_count++] = slotd_copy(header);
}

static void show(slotd_request *request, slotd_form form, slotd_str kind, slotd_str path) {
    request->form = form;
    request->kind = slotd_copy(kind);
    request->path = slotd_copy(path);
}

void slotd_request_show(slotd_request *request, slotd_str kind) {
    show(request, SLOTD_SHOW_TEXT, kind, (slotd_str){NULL, 0});
}

void slotd_request_show_data(slotd_request *request, slotd_str kind) {
    show(request, SLOTD_SHOW_DATA, kind, (slotd_str){NULL, 0});
}

void slotd_request_show_joined(slotd_request *request, slotd_str kind, slotd_str path) {
    show(request, SLOTD_SHOW_JOINED, kind, path);
}

const char *slotd_secret(slotd_str name) {
    return slotd_format("{{secret:%.*s}}", SLOTD_ARG(name));
}

void slotd_request_try(slotd_cx *cx, slotd_str id, const slotd_request *request,
                       const char **why) {
    (void)cx;
    want_utf8(id, "the id of a request");
    want_utf8(request->method, "the method of a request");
    want_utf8(request->url, "the URL of a request");
    for (size_t i = 0; i < request->header_count; i++) {
        want_utf8(request->headers[i].key, "the name of a header");
        want_utf8(request->headers[i].value, "the value of a header");
    }
    for (size_t i = 0; i < request->kept_count; i++)
        want_utf8(request->kept[i], "the name of a header");
    want_utf8(request->kind, "an event's kind");
    want_utf8(request->path, "a path into JSON");
    if ((unsigned)request->form > SLOTD_SHOW_NOTHING) misused("a form that there is not");
    if (why) *why = NULL;
    if (is_refused()) return;
    slotd_str problem = slotd_host_request(id, request);
    if (!problem.data) return;
    if (why)
        *why = problem.data;
    else
        refuse("bad-request", "%.*s", SLOTD_ARG(problem));
}

void slotd_request_send(slotd_cx *cx, slotd_str id, const slotd_request *request) {
    slotd_request_try(cx, id, request, NULL);
}

bool slotd_request_cancel(slotd_cx *cx, slotd_str id) {
    (void)cx;
    want_utf8(id, "the id of a request");
    return !is_refused() && slotd_host_cancel_request(id);
}

const slotd_str *slotd_request_open(const slotd_cx *cx, size_t *count) {
    (void)cx;
    *count = 0;
    return is_refused() ? NULL : slotd_host_open_requests(count);
}

slotd_http_answer slotd_http_answered(const slotd_cx *cx) {
    if (cx->origin != SLOTD_HTTP || is_refused()) return (slotd_http_answer){0};
    return slotd_host_http_answer();
}

bool slotd_http_success(const slotd_http_answer *answer) {
    return !answer->failed && answer->status >= 200 && answer->status < 300;
}

static char lower_case(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c; }

slotd_str slotd_http_header(const slotd_http_answer *answer, slotd_str name) {
    for (size_t i = 0; i < answer->header_count; i++) {
        slotd_str key = answer->headers[i].key;
        size_t same = 0;
        if (key.size != name.size) continue;
        while (same < key.size && lower_case(key.data[same]) == lower_case(name.data[same])) same++;
        if (same == key.size) return answer->headers[i].value;
    }
    return (slotd_str){NULL, 0};
}

/* ---- the end, and who is there ---------------------------------------------------------------- */

void slotd_close(slotd_cx *cx) {
    (void)cx;
    if (!is_refused()) slotd_host_close();
}

void slotd_watch_subscribers(slotd_cx *cx, bool wanted) {
    (void)cx;
    if (!is_refused()) slotd_host_watch_subscribers(wanted);
}

slotd_presence slotd_presence_told(const slotd_cx *cx) {
    if (cx->origin != SLOTD_SESSION || is_refused()) return SLOTD_NO_PRESENCE;
    return slotd_host_presence();
}

/* ---- who the client is ------------------------------------------------------------------------ */

slotd_client slotd_client_of(const slotd_cx *cx) {
    if (cx->origin != SLOTD_CLIENT || is_refused()) return (slotd_client){0};
    return slotd_host_client();
}

slotd_str slotd_claim(const slotd_client *client, slotd_str name) {
    for (size_t i = 0; i < client->claim_count; i++)
        if (slotd_equal(client->claims[i].key, name)) return client->claims[i].value;
    return (slotd_str){NULL, 0};
}
