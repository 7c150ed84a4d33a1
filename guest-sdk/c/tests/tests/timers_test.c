#include "told.h"

#include <stdio.h>
#include <string.h>

#define SECOND 1000ull

static bool says(slotd_outcome outcome, const char *words) {
    return traps_in(outcome, "tests/timers_test.c:", words);
}

/* ---- a timer's message ----------------------------------------------------------------------- */

static slotd_result sets_some(slotd_cx *cx) {
    CHECK(slotd_timer_firing(cx).attempt == 0);
    uint64_t due = slotd_timer_after(cx, "b", 2 * SECOND, slotd_text("in two"));
    CHECK(due == cx->time_ms + 2 * SECOND);
    CHECK(slotd_timer_at(cx, "a", cx->time_ms + SECOND, slotd_text("in one")) ==
          cx->time_ms + SECOND);
    slotd_timer_after(cx, "c", 9 * SECOND, slotd_null());
    CHECK(slotd_timer_cancel(cx, "c") && !slotd_timer_cancel(cx, "c"));
    slotd_timer_set(cx, "d", slotd_moment_every(3 * SECOND), "text/plain", "ä", NULL);
    const slotd_timer *set = slotd_timer_get(cx, "d");
    CHECK(set && set->due_ms == cx->time_ms + 3 * SECOND && set->failures == 0);
    CHECK_TEXT(set->content_type, "text/plain");
    CHECK_TEXT(set->body, "ä");
    CHECK(!slotd_timer_get(cx, "c"));
    size_t count;
    const slotd_timer *timers = slotd_timer_list(cx, (const char *)NULL, 1000, &count);
    CHECK(count == 3);
    CHECK_TEXT(timers[0].name, "a");
    CHECK_TEXT(timers[2].name, "d");
    timers = slotd_timer_list(cx, "a", 1, &count);
    CHECK(count == 1);
    CHECK_TEXT(timers[0].name, "b");
    CHECK_TEXT(timers[0].body, "\"in two\"");
    return reply();
}

static slotd_result keeps_firing(slotd_cx *cx, slotd_str body) {
    CHECK(cx->origin == SLOTD_TIMER && !cx->sender.data && !cx->id.data);
    slotd_firing firing = slotd_timer_firing(cx);
    /* One that fires once is gone, another has its next time. */
    const slotd_timer *timer = slotd_timer_get(cx, cx->origin_name);
    CHECK(!timer == !slotd_equal(cx->origin_name, "d"));
    CHECK(!timer || timer->due_ms > cx->time_ms);
    slotd_emit(cx, "fired",
               slotd_object("name", slotd_text(cx->origin_name), "late",
                            slotd_u64(cx->time_ms - firing.due_ms), "missed",
                            slotd_u64(firing.missed), "attempt", slotd_u64(firing.attempt),
                            "body", slotd_text(body)));
    return reply();
}

static slotd_result keeps_json(slotd_cx *cx, const slotd_json *message) {
    return keeps_firing(cx, slotd_bytes(slotd_write(message).data, slotd_write(message).size));
}

static bool fired_is(const slotd_session *session, size_t at, const char *expected) {
    return slotd_same(session->events[at].json, slotd_parse(expected, NULL));
}

/* What a handler sees of its timers must be what a node does with them. */
TEST(a_timer_is_a_message_when_it_is_due) {
    slotd_session *session = slotd_new_session("session");
    CHECK(told(session, sets_some).ended == SLOTD_REPLIED);
    CHECK(session->timer_count == 3 && session->seq == 1);
    CHECK_JSON(slotd_timer_of(session, "a")->json, "\"in one\"");
    CHECK(!slotd_timer_of(session, "c"));
    uint64_t start = session->time_ms;
    on_message = keeps_json;
    CHECK(slotd_advance(session, SECOND - 1) == 0);
    CHECK(slotd_advance(session, SECOND + 1) == 2);
    CHECK(session->time_ms == start + 2 * SECOND && session->seq == 3);
    CHECK(fired_is(session, 0,
                   "{\"name\": \"a\", \"late\": 0, \"missed\": 0, \"attempt\": 1,"
                   " \"body\": \"\\\"in one\\\"\"}"));
    CHECK(fired_is(session, 1,
                   "{\"name\": \"b\", \"late\": 0, \"missed\": 0, \"attempt\": 1,"
                   " \"body\": \"\\\"in two\\\"\"}"));
    CHECK(session->timer_count == 1);
}

static slotd_result sets_a_period(slotd_cx *cx) {
    slotd_timer_every(cx, "d", 3 * SECOND, slotd_u64(7));
    return reply();
}

TEST(a_period_keeps_its_times) {
    slotd_session *session = slotd_new_session("session");
    told(session, sets_a_period);
    uint64_t start = session->time_ms;
    on_message = keeps_json;
    CHECK(slotd_advance(session, 7 * SECOND) == 2);
    /* Nobody served for a while: one message for all of the times. */
    session->time_ms = start + 16 * SECOND;
    CHECK(slotd_advance(session, 0) == 1 && session->fired_count == 3);
    slotd_fired late = session->fired[2];
    CHECK(late.firing.due_ms == start + 9 * SECOND && late.firing.missed == 2);
    CHECK(late.time_ms == start + 16 * SECOND && late.outcome.ended == SLOTD_REPLIED);
    CHECK(slotd_timer_of(session, "d")->due_ms == start + 18 * SECOND);
    /* Fired by hand, it is not due before its time, and goes on from there. */
    CHECK(slotd_fire(session, "d").ended == SLOTD_REPLIED);
    CHECK(slotd_timer_of(session, "d")->due_ms == start + 21 * SECOND);
}

/* ---- one that fails -------------------------------------------------------------------------- */

static slotd_result fails(slotd_cx *cx, const slotd_json *message) {
    uint64_t times = slotd_need_u64(cx, message, "times");
    slotd_set(cx, "k", slotd_null());
    slotd_timer_after(cx, "other", 0, slotd_null());
    if (slotd_timer_firing(cx).attempt > times) return reply();
    if (slotd_member(message, "traps")) slotd_trap("as told");
    if (slotd_member(message, "for-good")) return slotd_reject("no", "Not ever.");
    return slotd_reject_for_now("no", "Not now.");
}

static const char *body_of_failing;
static slotd_result sets_failing(slotd_cx *cx) {
    slotd_timer_every(cx, "f", 600 * SECOND, slotd_parse(body_of_failing, NULL));
    return reply();
}

static slotd_session *failing(const char *body) {
    slotd_session *session = slotd_new_session("session");
    body_of_failing = body;
    told(session, sets_failing);
    on_message = fails;
    return session;
}

/* A handler that fails once must be seen to be called again, with nothing left of the failure. */
TEST(a_message_that_fails_is_tried_again) {
    slotd_session *session = failing("{\"times\": 2, \"traps\": true}");
    uint64_t due = session->time_ms + 600 * SECOND;
    CHECK(slotd_advance(session, 600 * SECOND) == 1);
    CHECK(session->timer_count == 1 && session->seq == 1 && slotd_state_count(session) == 0);
    const slotd_set_timer *timer = slotd_timer_of(session, "f");
    CHECK(timer->due_ms == due && timer->failures == 1 && timer->next_ms == due + SECOND);
    CHECK(slotd_advance(session, SECOND) == 1 && session->fired_count == 2);
    CHECK(slotd_timer_of(session, "f")->next_ms == due + 3 * SECOND);
    /* The third goes well, and the timer that it has set is due 100 ms later. */
    CHECK(slotd_advance(session, 2 * SECOND) == 1);
    CHECK(slotd_timer_of(session, "other")->due_ms == session->time_ms + 100);
    CHECK(session->fired[2].firing.attempt == 3 && session->fired[2].firing.due_ms == due);
    CHECK(session->fired[2].outcome.ended == SLOTD_REPLIED && slotd_state_count(session) == 1);
    timer = slotd_timer_of(session, "f");
    CHECK(timer->failures == 0 && timer->due_ms == due + 600 * SECOND);
    CHECK(slotd_advance(session, 99) == 0 && slotd_advance(session, 1) == 1);
    CHECK(session->fired[3].firing.due_ms == due + 3 * SECOND + 100);
    CHECK(session->dead_count == 1);
    CHECK_TEXT(session->dead[0].name, "other");
    CHECK_TEXT(session->dead[0].outcome.code, "bad-message");
}

TEST(a_message_is_given_up_at_last) {
    slotd_session *session = failing("{\"times\": 100}");
    slotd_advance(session, 7200 * SECOND);
    CHECK(session->dead_count == 1 && session->dead[0].firing.attempt == 20);
    CHECK_TEXT(session->dead[0].outcome.code, "no");
    CHECK(session->dead[0].time_ms > session->fired[0].time_ms + 3000 * SECOND);
    /* A period goes on. */
    CHECK(slotd_timer_of(session, "f")->due_ms > session->dead[0].time_ms);

    session = failing("{\"times\": 100, \"for-good\": true}");
    CHECK(slotd_fire(session, "f").ended == SLOTD_REJECTED);
    CHECK(session->dead_count == 1 && session->dead[0].firing.attempt == 1);
    CHECK(slotd_timer_of(session, "f")->failures == 0 && session->seq == 1);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static slotd_result wants_a_short_period(slotd_cx *cx) {
    slotd_set(cx, "k", slotd_null());
    CHECK(slotd_timer_every(cx, "p", 99, slotd_null()) == 0 && slotd_refused(cx));
    slotd_timer_after(cx, "", 1, slotd_null());
    return reply();
}
static slotd_result asks_why(slotd_cx *cx) {
    const char *why;
    slotd_timer_set(cx, "p", slotd_moment_at(UINT64_MAX), "", "", &why);
    CHECK(why && strstr(why, "no time that a timer can be set for"));
    slotd_timer_set(cx, "p", slotd_moment_at(221845392000001), "", "", &why);
    CHECK(why && strstr(why, "the last is 221845392000000 ms"));
    slotd_timer_set(cx, "p", slotd_moment_at(221845392000000), "", "", &why);
    CHECK(!why);
    slotd_timer_set(cx, "p", slotd_moment_cron("* * * *", "UTC"), "", "", &why);
    CHECK(why && strstr(why, "five fields"));
    CHECK(slotd_timer_set(cx, "p", slotd_moment_after(0), "", "", &why) == cx->time_ms && !why);
    return reply();
}
static slotd_result has_no_name(slotd_cx *cx) {
    slotd_timer_after(cx, "", 1, slotd_null());
    return reply();
}
static slotd_result has_a_long_name(slotd_cx *cx) {
    char name[130] = "";
    memset(name, 'x', 128);
    slotd_timer_after(cx, name, 1, slotd_null());
    name[128] = 'x';
    slotd_timer_cancel(cx, name);
    return reply();
}
static slotd_result has_two_lines(slotd_cx *cx) {
    slotd_timer_after(cx, cx->seq == 1 ? "a\nb" : "a\xc2\x85", 1, slotd_null());
    return reply();
}
static slotd_result sets_too_many(slotd_cx *cx) {
    for (int i = 0; i < 256; i++) slotd_timer_after(cx, slotd_format("%d", i), 1, slotd_null());
    slotd_timer_cancel(cx, "0");
    return reply();
}
static slotd_result sets_more(slotd_cx *cx) {
    for (int i = 0; i < 250; i++)
        slotd_timer_after(cx, slotd_format("%d-%d", (int)cx->seq, i), 1, slotd_null());
    return reply();
}
static char large[64 * 1024 + 1];
static slotd_result sets_large(slotd_cx *cx) {
    for (int i = 0; i < 16; i++)
        slotd_timer_set(cx, slotd_format("%d", i), slotd_moment_after(1), "text/plain",
                        slotd_bytes(large, sizeof large - 1), NULL);
    return reply();
}
static slotd_result sets_larger(slotd_cx *cx) {
    slotd_timer_set(cx, "0", slotd_moment_after(1), "", slotd_bytes(large, sizeof large), NULL);
    return reply();
}

/* A limit that only a node has would be met when it is too late. */
TEST(what_cannot_be_is_refused) {
    slotd_session *session = slotd_new_session("session");
    slotd_outcome refused = told(session, wants_a_short_period);
    CHECK(refused.ended == SLOTD_REJECTED && !refused.retriable);
    CHECK_TEXT(refused.code, "bad-moment");
    CHECK_TEXT(refused.message, "a period has 100 ms at least, not 99");
    CHECK(says(told(session, has_no_name), "1 to 128 bytes"));
    CHECK(says(told(session, has_a_long_name), "1 to 128 bytes; this one has 129"));
    CHECK(says(told(session, has_two_lines), "no control characters"));
    CHECK(says(told(session, sets_too_many), "limit: more than 256"));
    CHECK(says(told(session, sets_large), "limit: more than 1048576 bytes"));
    CHECK(says(told(session, sets_larger),
               "limit: timers: a body may have 65536 bytes; this one has 65537"));
    CHECK(session->seq == 0 && session->timer_count == 0 && slotd_state_count(session) == 0);
    CHECK(told(session, asks_why).ended == SLOTD_REPLIED);
    CHECK(session->timer_count == 1);
    CHECK(says(told(session, has_two_lines), "no control characters"));
    for (int i = 0; i < 3; i++) CHECK(told(session, sets_more).ended == SLOTD_REPLIED);
    CHECK(says(told(session, sets_more), "limit: more than 1000 timers"));
    CHECK(session->timer_count == 751);
}

static slotd_result query_sets(const slotd_cx *cx, const slotd_json *query) {
    size_t count;
    slotd_timer_list(cx, (const char *)NULL, 10, &count);
    CHECK(count == 1 && slotd_timer_get(cx, "d"));
    if (slotd_type_of(query) == SLOTD_NULL)
        slotd_timer_cancel((slotd_cx *)cx, "d");
    else
        slotd_timer_after((slotd_cx *)cx, "d", 1, query);
    return reply();
}
static const char *migrate_sets(slotd_cx *cx, const char *from) {
    (void)from;
    slotd_timer_after(cx, "d", 1, slotd_null());
    return NULL;
}

TEST(only_a_message_sets_and_cancels) {
    slotd_session *session = slotd_new_session("session");
    told(session, sets_a_period);
    on_query = query_sets;
    on_migrate = migrate_sets;
    CHECK(says(slotd_ask(session, "1"), "only `handle` may set timers"));
    CHECK(says(slotd_ask(session, "null"), "only `handle` may cancel timers"));
    CHECK(says(slotd_migrate(session, "0.1.0"), "only `handle` may set timers"));
    CHECK(slotd_timer_of(session, "d")->when.kind == SLOTD_EVERY);
}

/* Once in a client's message, and once in a timer's. */
static slotd_result sets_past(slotd_cx *cx) {
    uint64_t now = cx->time_ms, earliest = now + (cx->origin == SLOTD_TIMER ? 100 : 0);
    CHECK(slotd_timer_at(cx, "at", 1, slotd_null()) == earliest);
    CHECK(slotd_timer_after(cx, "after", 0, slotd_null()) == earliest);
    CHECK(slotd_timer_every(cx, "every", 100, slotd_null()) == now + 100);
    uint64_t minute = slotd_timer_cron(cx, "cron", "* * * * *", "UTC", slotd_null());
    CHECK(minute >= earliest && slotd_timer_get(cx, "cron")->due_ms == minute);
    CHECK(slotd_timer_get(cx, "at")->due_ms == earliest);
    CHECK(cx->origin == SLOTD_CLIENT || slotd_timer_firing(cx).due_ms == now);
    return reply();
}

/* A test that counts on another time passes here and fails on a node. */
TEST(a_timer_is_never_due_in_the_past) {
    slotd_session *session = slotd_new_session("session");
    /* 50 ms before a minute: a cron timer may be for it, where a client sets it. */
    session->time_ms += 60000 - session->time_ms % 60000 - 50;
    uint64_t start = session->time_ms;
    CHECK(told(session, sets_past).ended == SLOTD_REPLIED);
    CHECK(slotd_timer_of(session, "cron")->due_ms == start + 50);
    CHECK(slotd_fire(session, "at").ended == SLOTD_REPLIED);
    CHECK(session->fired[0].firing.due_ms == start);
    CHECK(slotd_timer_of(session, "at")->due_ms == start + 100);
    CHECK(slotd_timer_of(session, "cron")->due_ms == start + 100);
}

static slotd_result sets_cron(slotd_cx *cx) {
    slotd_timer_cron(cx, "d", "0 8 * * 1", "Europe/Berlin", slotd_u64(7));
    return reply();
}

/* What an expression means is not known here; a test must not believe that it is. */
TEST(a_cron_timer_is_fired_by_hand) {
    slotd_session *session = slotd_new_session("session");
    told(session, sets_cron);
    CHECK_TEXT(slotd_timer_of(session, "d")->when.zone, "Europe/Berlin");
    on_message = keeps_json;
    CHECK(slotd_fire(session, "d").ended == SLOTD_REPLIED);
    CHECK(session->fired_count == 1 && session->fired[0].firing.attempt == 1);
    CHECK(slotd_timer_of(session, "d") != NULL);
}
