#include "told.h"

#include <string.h>

#define MINUTE (60 * 1000ull)
#define LAST_MS 221845392000000ull

static slotd_result notes(slotd_cx *cx) {
    slotd_set(cx, "noted", slotd_bool(true));
    return reply();
}

static slotd_result in_a_minute(slotd_cx *cx) {
    slotd_expire_after(cx, MINUTE);
    return reply();
}

static slotd_result long_ago(slotd_cx *cx) {
    slotd_expire_at(cx, 5);
    return reply();
}

static slotd_result keeps(slotd_cx *cx) {
    slotd_keep(cx);
    return reply();
}

static slotd_result keeps_in_a_minute(slotd_cx *cx) {
    if (cx->origin == SLOTD_TIMER) return keeps(cx);
    slotd_timer_after(cx, "keep", MINUTE, slotd_null());
    return reply();
}

static slotd_result timer_for_later(slotd_cx *cx) {
    slotd_timer_after(cx, "later", MINUTE + 1, slotd_null());
    return reply();
}

static slotd_result changes_its_mind(slotd_cx *cx) {
    slotd_expire_after(cx, 1);
    return slotd_reject("no", "No.");
}

TEST(a_session_that_expires_is_gone_and_begins_anew) {
    slotd_session *room = slotd_new_session("room");
    uint64_t now = room->time_ms;
    CHECK(told(room, notes).ended == SLOTD_REPLIED);
    CHECK(told(room, timer_for_later).ended == SLOTD_REPLIED);
    CHECK(told(room, in_a_minute).ended == SLOTD_REPLIED);
    CHECK(room->expires_ms == now + MINUTE && room->seq == 3);
    CHECK(slotd_advance(room, MINUTE - 1) == 0);
    CHECK(room->seq == 3 && slotd_state_count(room) == 1);
    CHECK(slotd_advance(room, MINUTE) == 0);
    CHECK(room->expires_ms == 0 && room->seq == 0 && room->timer_count == 0);
    CHECK(slotd_state_count(room) == 0);
    CHECK(room->time_ms == now + 2 * MINUTE - 1);
    CHECK_TEXT(room->name, "room");
    CHECK(told(room, notes).ended == SLOTD_REPLIED);
    CHECK(room->seq == 1 && slotd_state_count(room) == 1);
}

TEST(a_later_message_has_the_last_word) {
    slotd_session *room = slotd_new_session("room");
    uint64_t now = room->time_ms;
    told(room, in_a_minute);
    /* Nothing is said by what fails, and no other message puts it off. */
    CHECK_TEXT(told(room, changes_its_mind).code, "no");
    told(room, notes);
    CHECK(room->expires_ms == now + MINUTE);
    told(room, keeps);
    CHECK(room->expires_ms == 0);
    slotd_advance(room, 2 * MINUTE);
    CHECK(room->seq == 3);
    /* A time that has passed is now. */
    told(room, long_ago);
    CHECK(room->expires_ms == now + 2 * MINUTE);
    slotd_advance(room, 0);
    CHECK(room->seq == 0);
}

/* A timer for the same time may still keep the session, as on a node. */
TEST(timers_that_are_due_before_fire_before_it_expires) {
    slotd_session *room = slotd_new_session("room");
    told(room, in_a_minute);
    told(room, keeps_in_a_minute);
    CHECK(slotd_advance(room, 2 * MINUTE) == 1);
    CHECK(room->seq == 3 && room->expires_ms == 0);
    told(room, keeps_in_a_minute);
    does = in_a_minute;
    CHECK(slotd_advance(room, 3 * MINUTE) == 1);
    CHECK(room->seq == 0 && room->fired_count == 2);
}

static slotd_result too_late(slotd_cx *cx) {
    slotd_expire_at(cx, LAST_MS + 1);
    return reply();
}

static slotd_result far_too_late(slotd_cx *cx) {
    slotd_expire_after(cx, UINT64_MAX);
    return reply();
}

static slotd_result asks_first(slotd_cx *cx) {
    const char *why = "";
    slotd_expire_set(cx, LAST_MS, &why);
    CHECK(!why);
    slotd_expire_set(cx, LAST_MS + 1, &why);
    CHECK_TEXT(why, "221845392000001 is no time at which a session can expire: the last is "
                    "221845392000000 ms since the Unix epoch");
    return reply();
}

TEST(a_time_that_cannot_be_is_refused_and_changes_nothing) {
    slotd_session *room = slotd_new_session("room");
    told(room, in_a_minute);
    uint64_t expires_ms = room->expires_ms;
    CHECK_TEXT(told(room, too_late).code, "bad-moment");
    CHECK_TEXT(told(room, far_too_late).code, "bad-moment");
    CHECK(room->expires_ms == expires_ms && room->seq == 1);
    CHECK(told(room, asks_first).ended == SLOTD_REPLIED);
    CHECK(room->expires_ms == LAST_MS);
}

static slotd_result keeps_in_query(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    return keeps((slotd_cx *)cx);
}

static const char *expires_in_migrate(slotd_cx *cx, const char *from) {
    (void)from;
    slotd_expire_at(cx, 1);
    return NULL;
}

TEST(only_a_message_says_that_it_expires) {
    slotd_session *room = slotd_new_session("room");
    told(room, in_a_minute);
    uint64_t expires_ms = room->expires_ms;
    on_query = keeps_in_query;
    on_migrate = expires_in_migrate;
    slotd_outcome asked = slotd_ask(room, "{}"), migrated = slotd_migrate(room, "0.1.0");
    CHECK(asked.ended == SLOTD_TRAPPED && migrated.ended == SLOTD_TRAPPED);
    CHECK(strstr(asked.message.data, "only `handle` may have the session expire"));
    CHECK(strstr(migrated.message.data, "only `handle` may have the session expire"));
    CHECK(room->expires_ms == expires_ms);
}
