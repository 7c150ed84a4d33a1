#include "told.h"

#define MINUTE (60 * 1000ull)

static bool says(slotd_outcome outcome, const char *words) {
    return traps_in(outcome, "tests/session_test.c:", words);
}

static slotd_result notes(slotd_cx *cx) {
    slotd_set(cx, "noted", slotd_bool(true));
    return reply();
}

static slotd_result closes(slotd_cx *cx) {
    slotd_expire_after(cx, MINUTE);
    slotd_timer_after(cx, "late", 1000, slotd_null());
    slotd_request_send(cx, "a", slotd_request_to("GET", "https://a"));
    slotd_send_for_reply(cx, "a/b", "r", slotd_null());
    slotd_send_to(cx, "a/b", slotd_null());
    slotd_watch_subscribers(cx, true);
    slotd_close(cx);
    slotd_emit(cx, "closed", slotd_null());
    return reply();
}

static slotd_result closes_and_rejects(slotd_cx *cx) {
    slotd_close(cx);
    slotd_watch_subscribers(cx, true);
    return slotd_reject("no", "No.");
}

static slotd_result says_seq(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    return slotd_reply(slotd_u64(cx->seq));
}

/* A test would go on with a session that a node has closed, or miss what ends with it. */
TEST(a_closed_session_takes_no_more_messages) {
    slotd_session *room = slotd_new_session("room");
    told(room, notes);
    told(room, closes_and_rejects);
    CHECK(!room->closed && !room->watches);
    CHECK(told(room, closes).ended == SLOTD_REPLIED && room->closed);
    slotd_outcome refused = told(room, notes);
    CHECK(refused.ended == SLOTD_REJECTED && !refused.retriable);
    CHECK_TEXT(refused.code, "session-closed");
    CHECK_TEXT(slotd_deliver(room, "a/b", "1").code, "session-closed");
    CHECK(room->seq == 2 && room->event_count == 1 && room->sent_count == 2);
    CHECK(room->timer_count == 0 && !room->requests[0].open && !room->watches);
    CHECK(room->sent[0].answered && !room->sent[1].answered);
    on_query = says_seq;
    CHECK_JSON(slotd_ask(room, "{}").json, "2");
    /* It expires, and then begins anew. */
    CHECK(slotd_advance(room, MINUTE) == 0);
    CHECK(!room->closed && told(room, notes).ended == SLOTD_REPLIED && room->seq == 1);
}

static slotd_result watches(slotd_cx *cx) {
    slotd_watch_subscribers(cx, true);
    return reply();
}

static slotd_result looks_away(slotd_cx *cx) {
    slotd_watch_subscribers(cx, false);
    return reply();
}

static slotd_result tells(slotd_cx *cx, bool present) {
    CHECK(slotd_presence_told(cx) == (present ? SLOTD_PRESENT : SLOTD_ABSENT));
    CHECK(cx->origin == SLOTD_SESSION && slotd_arrived(cx).kind == SLOTD_NO_ARRIVAL);
    if (!present && slotd_get(cx, "noted")) return slotd_reject_for_now("no", "No.");
    slotd_emit(cx, "presence", slotd_bool(present));
    return slotd_reply(slotd_bool(present));
}

static slotd_result tells_none(slotd_cx *cx, const slotd_json *message) {
    (void)message;
    CHECK(slotd_presence_told(cx) == SLOTD_NO_PRESENCE);
    return reply();
}

/* A test could not say what a handler does when people come and go. */
TEST(a_session_that_watches_is_told_who_comes_and_goes) {
    slotd_session *room = slotd_new_session("room");
    on_presence = tells;
    told(room, watches);
    CHECK_JSON(slotd_tell_presence(room, true).json, "true");
    CHECK_JSON(slotd_tell_presence(room, false).json, "false");
    CHECK(room->event_count == 2 && room->seq == 3);
    CHECK_TEXT(room->events[1].body, "false");
    told(room, notes);
    CHECK_TEXT(slotd_tell_presence(room, false).code, "no");
    CHECK(room->event_count == 2 && room->watches);
    on_message = tells_none;
    CHECK(slotd_deliver(room, "service/room", "1").ended == SLOTD_REPLIED);
    told(room, looks_away);
    CHECK(!room->watches);
}

static slotd_result closes_in_query(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    slotd_close((slotd_cx *)cx);
    return reply();
}

static const char *watches_in_migrate(slotd_cx *cx, const char *from) {
    (void)from;
    slotd_watch_subscribers(cx, true);
    return NULL;
}

TEST(only_a_message_closes_or_watches) {
    slotd_session *room = slotd_new_session("room");
    on_query = closes_in_query;
    on_migrate = watches_in_migrate;
    CHECK(says(slotd_ask(room, "{}"), "only `handle` may close"));
    CHECK(says(slotd_migrate(room, "0.1.0"), "only `handle` may watch"));
    CHECK(!room->closed && !room->watches);
}
