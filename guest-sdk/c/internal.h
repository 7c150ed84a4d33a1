/* What the parts of the SDK know of each other; not for handlers. */
#ifndef SLOTD_INTERNAL_H
#define SLOTD_INTERNAL_H

#define SLOTD_PLAIN
#include "slotd.h"

/* ---- memory: slotd.c ---- */

/* Memory that is given piece by piece and freed at once. */
typedef struct slotd_arena {
    struct slotd_chunk *chunk;
} slotd_arena;

/* Not zeroed, `align` a power of two; `size` bytes and a zero byte behind them. Traps rather than
 * give NULL. */
void *slotd_arena_get(slotd_arena *arena, size_t size, size_t align);
/* Grows what was given last in place if it can, else moves it. */
void *slotd_arena_grow(slotd_arena *arena, void *old, size_t old_size, size_t size, size_t align);
void slotd_arena_reset(slotd_arena *arena);
/* As slotd_arena_reset, and keeps nothing for later. */
void slotd_arena_free(slotd_arena *arena);

/* The call's. */
extern slotd_arena slotd_call_arena;
/* Where what the host gives is put: the call's, or that of a scan's page. */
extern slotd_arena *slotd_host_arena;

/* ---- JSON: json.c ---- */

/* Parses in place: writes into `text`, which the value refers to from then on and behind whose end
 * there is a byte of room. */
slotd_json *slotd_parse_here(slotd_arena *arena, char *text, size_t size, const char **why);
bool slotd_is_utf8(slotd_str text);
/* Puts question marks in the place of what is none. */
void slotd_make_utf8(char *text, size_t size);

/* ---- a call: slotd.c ---- */

typedef enum slotd_call_kind { SLOTD_HANDLE, SLOTD_QUERY, SLOTD_MIGRATE } slotd_call_kind;

slotd_result slotd_run_handle(slotd_cx *cx, slotd_str body);
slotd_result slotd_run_query(slotd_cx *cx, slotd_str body);
/* NULL: agreed. */
const char *slotd_run_migrate(slotd_cx *cx, slotd_str from);
/* Frees all that the call had. */
void slotd_end_call(void);

/* The time of the call under way; false in `migrate` and between calls. */
bool slotd_call_time(uint64_t *time_ms);
/* Ends the call for a misuse of the SDK, with the place in the handler's source. */
_Noreturn void slotd_misused(const char *what);
/* The next bytes of the call's chance. */
void slotd_call_random(void *out, size_t size);

/* ---- the host: component.c, or slotd_test.c ---- */

slotd_str slotd_host_get(slotd_str key);
void slotd_host_set(slotd_str key, slotd_str value);
void slotd_host_delete(slotd_str key);
slotd_pair *slotd_host_scan(slotd_str prefix, slotd_str after, uint32_t limit, size_t *count);
void slotd_host_emit(slotd_str kind, slotd_str content_type, slotd_str body);
void slotd_host_notify(slotd_str kind, slotd_str content_type, slotd_str body);
/* Gives what is wrong with the time; without data: nothing, and the session expires at it. */
slotd_str slotd_host_expire(uint64_t at_ms);
/* It does not. */
void slotd_host_keep(void);
/* Gives what is wrong with the moment; without data: nothing, and `due_ms` is set. */
slotd_str slotd_host_schedule(slotd_str name, slotd_moment when, slotd_str content_type,
                              slotd_str body, uint64_t *due_ms);
bool slotd_host_cancel(slotd_str name);
bool slotd_host_timer(slotd_str name, slotd_timer *timer);
slotd_timer *slotd_host_timers(slotd_str after, uint32_t limit, size_t *count);
slotd_firing slotd_host_firing(void);
/* Gives what is wrong with the address or the name; without data: nothing, and it is sent. */
slotd_str slotd_host_send(slotd_address to, slotd_str content_type, slotd_str body,
                          slotd_str reply_as);
slotd_arrival slotd_host_arrival(void);
/* Gives what is wrong with the options; without data: nothing, and it will be made. */
slotd_str slotd_host_request(slotd_str id, const slotd_request *request);
bool slotd_host_cancel_request(slotd_str id);
slotd_str *slotd_host_open_requests(size_t *count);
slotd_http_answer slotd_host_http_answer(void);
void slotd_host_close(void);
void slotd_host_watch_subscribers(bool wanted);
slotd_presence slotd_host_presence(void);
slotd_client slotd_host_client(void);
void slotd_host_log(slotd_level level, slotd_str line);
/* Ends the lines that were printed without an end. */
void slotd_end_lines(void);
/* Ends the call, whose reason was logged. */
_Noreturn void slotd_host_trap(slotd_str why);

#endif
