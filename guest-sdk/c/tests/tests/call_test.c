#include "../src/handler.h"
#include "slotd_test.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static slotd_outcome on(slotd_result (*told)(slotd_cx *, const slotd_json *)) {
    on_message = told;
    return slotd_send(slotd_new_session("session"), "ann", "{\"text\": \"t\", \"n\": 3}");
}

static bool says(slotd_outcome outcome, const char *words) {
    return outcome.ended == SLOTD_TRAPPED && strstr(outcome.message.data, words) != NULL &&
           strstr(outcome.message.data, "tests/call_test.c:") == outcome.message.data;
}

/* ---- the one rule for errors ----------------------------------------------------------------- */

static slotd_result needs(slotd_cx *cx, const slotd_json *message) {
    slotd_set(cx, "before", slotd_null());
    slotd_str text = slotd_need_text(cx, message, "text");
    CHECK_TEXT(text, "t");
    CHECK(slotd_need_u64(cx, message, "n") == 3 && !slotd_refused(cx));
    CHECK_TEXT(slotd_need_text(cx, message, "n"), "");
    CHECK(slotd_refused(cx));
    /* From here on nothing counts; an empty key would be a trap. */
    CHECK(slotd_need_u64(cx, message, "none") == 0);
    slotd_set(cx, "", slotd_need(cx, message, "none"));
    CHECK(slotd_get(cx, "before") == NULL);
    CHECK(!slotd_next(slotd_scan_all(cx, "")));
    slotd_emit(cx, "", slotd_null());
    return slotd_reply(slotd_object("all", slotd_text("well")));
}

/* A member that a handler forgot to check must become a rejection, not a default that is stored. */
TEST(what_a_message_lacks_rejects_it) {
    slotd_outcome outcome = on(needs);
    CHECK(outcome.ended == SLOTD_REJECTED && !outcome.retriable);
    CHECK_TEXT(outcome.code, "bad-message");
    CHECK_TEXT(outcome.message, "the message is not understood: `n` is a text");
}

static slotd_result asks(const slotd_cx *cx, const slotd_json *query) {
    slotd_need_bool(cx, query, "flag");
    return slotd_reply(slotd_null());
}

TEST(what_a_query_lacks_rejects_it) {
    on_query = asks;
    slotd_session *session = slotd_new_session("session");
    CHECK_TEXT(slotd_ask(session, "{}").code, "bad-query");
    CHECK_TEXT(slotd_ask(session, "{").code, "bad-query");
    CHECK_TEXT(slotd_ask(session, "").code, "bad-query");
    CHECK(slotd_ask(session, "{\"flag\": true}").ended == SLOTD_REPLIED);
}

static slotd_result reads(slotd_cx *cx, const slotd_json *message) {
    slotd_str key = slotd_need_text(cx, message, "key");
    if (slotd_starts_with(key, "text")) slotd_get_text(cx, key);
    else if (slotd_starts_with(key, "scan")) {
        slotd_scan *scan = slotd_scan_all(cx, key);
        while (slotd_next(scan)) slotd_value_u64(scan);
    } else slotd_get_i64(cx, key, 0);
    return slotd_reply(slotd_null());
}

TEST(state_that_is_something_else_rejects) {
    on_message = reads;
    slotd_session *session = slotd_new_session("session");
    slotd_put_state(session, "n", "1.5");
    slotd_put_state(session, "text", "1");
    slotd_put_state(session, "scan-1", "1");
    slotd_put_state(session, "scan-2", "no JSON");
    static const char *const keys[] = {"n", "text", "scan"};
    for (size_t i = 0; i < 3; i++) {
        char body[64];
        snprintf(body, sizeof body, "{\"key\": \"%s\"}", keys[i]);
        CHECK_TEXT(slotd_send(session, NULL, body).code, "bad-state");
    }
    CHECK(slotd_send(session, NULL, "{\"key\": \"none\"}").ended == SLOTD_REPLIED);
}

static slotd_result traps(slotd_cx *cx, const slotd_json *message) {
    slotd_set(cx, "k", message);
    slotd_trap("told to: %d", 7);
}
static slotd_result asserts(slotd_cx *cx, const slotd_json *message) {
    assert(cx->seq == 0 && message);
    return slotd_reply(message);
}
static slotd_result aborts(slotd_cx *cx, const slotd_json *message) {
    (void)cx, (void)message;
    abort();
}
static slotd_result puts_null(slotd_cx *cx, const slotd_json *message) {
    (void)cx;
    return slotd_reply(slotd_object("none", slotd_member(message, "none")));
}
static slotd_result writes_no_text(slotd_cx *cx, const slotd_json *message) {
    (void)cx, (void)message;
    return slotd_reply(slotd_text("\xff"));
}
static slotd_result has_no_key(slotd_cx *cx, const slotd_json *message) {
    slotd_set(cx, "\xff", message);
    return slotd_reply(message);
}
static slotd_result holds_itself(slotd_cx *cx, const slotd_json *message) {
    (void)cx, (void)message;
    slotd_json *array = slotd_array();
    slotd_push(array, array);
    return slotd_reply(array);
}
static slotd_result wants_it_all(slotd_cx *cx, const slotd_json *message) {
    (void)cx;
    slotd_alloc(SIZE_MAX - 8);
    return slotd_reply(message);
}
static slotd_result says_nothing(slotd_cx *cx, const slotd_json *message) {
    (void)cx, (void)message;
    return (slotd_result){0};
}
static slotd_result emits_two_words(slotd_cx *cx, const slotd_json *message) {
    slotd_emit(cx, "two words", message);
    return slotd_reply(message);
}
static slotd_result emits_a_reserved_kind(slotd_cx *cx, const slotd_json *message) {
    slotd_emit(cx, cx->seq == 1 ? "slotd.deleted" : "error", message);
    return slotd_reply(message);
}
static slotd_result has_no_number(slotd_cx *cx, const slotd_json *message) {
    (void)message;
    slotd_set(cx, "k", slotd_f64(0.0 / (double)(cx->seq - cx->seq)));
    return slotd_reply(slotd_null());
}
static slotd_result is_too_deep(slotd_cx *cx, const slotd_json *message) {
    for (int i = 0; i < 128; i++) {
        slotd_json *array = slotd_array();
        slotd_push(array, message);
        message = array;
    }
    slotd_set(cx, "k", message);
    return slotd_reply(slotd_null());
}

/* What could not be read again would make every later message of the session fail. */
TEST(what_would_not_come_back_is_not_stored) {
    CHECK(says(on(has_no_number), "not finite"));
    CHECK(says(on(is_too_deep), "nested too deep"));
    CHECK(says(on(emits_a_reserved_kind), "is reserved"));
}

/* A trap without a place is a riddle; one that is not a trap is a wrong answer. */
TEST(everything_else_traps_with_its_place) {
    CHECK(says(on(traps), "in traps: told to: 7"));
    CHECK(says(on(asserts), "assertion failed: cx->seq == 0 && message"));
    CHECK(says(on(aborts), "in aborts: abort() was called"));
    CHECK(says(on(puts_null), "a NULL as a member or item"));
    CHECK(says(on(writes_no_text), "not UTF-8"));
    CHECK(says(on(has_no_key), "a key is not UTF-8"));
    CHECK(says(on(holds_itself), "holds itself"));
    CHECK(says(on(wants_it_all), "out of memory"));
    slotd_outcome nothing = on(says_nothing), emits = on(emits_two_words);
    CHECK(nothing.ended == SLOTD_TRAPPED && strstr(nothing.message.data, "returned nothing"));
    CHECK(emits.ended == SLOTD_TRAPPED && strstr(emits.message.data, "one word"));
}

static slotd_result logs(slotd_cx *cx, const slotd_json *message) {
    (void)cx;
    char text[5000];
    memset(text, 0xc3, sizeof text);
    slotd_log(SLOTD_WARN, "ä\xff%.*s", (int)sizeof text, text);
    return slotd_reply(message);
}

/* A host takes UTF-8 only: a line that was cut in a letter would trap. */
TEST(any_line_can_be_logged) {
    on_message = logs;
    slotd_session *session = slotd_new_session("session");
    CHECK(slotd_send(session, NULL, "{}").ended == SLOTD_REPLIED);
    CHECK(session->log_count == 1 && session->log[0].text.size == 2048);
    CHECK(slotd_starts_with(session->log[0].text, "ä???"));
}

/* ---- all or nothing, and the limits ----------------------------------------------------------- */

static slotd_result writes(slotd_cx *cx, const slotd_json *message) {
    slotd_str then = slotd_need_text(cx, message, "then");
    slotd_set(cx, "k", slotd_u64(cx->seq));
    slotd_delete(cx, "old");
    slotd_emit(cx, "wrote", slotd_u64(cx->seq));
    slotd_notify(cx, "passed", slotd_u64(cx->seq));
    uint64_t seq = slotd_get_u64(cx, "k", 0);
    CHECK(seq == cx->seq && !slotd_get(cx, "old"));
    if (slotd_equal(then, "reject")) return slotd_reject_for_now("told-to", "As told.");
    if (slotd_equal(then, "trap")) slotd_trap("as told");
    static char large[1024 * 1024 + 1];
    if (slotd_equal(then, "value")) slotd_set_bytes(cx, "v", slotd_bytes(large, sizeof large));
    if (slotd_equal(then, "key")) slotd_set_bytes(cx, slotd_bytes(large, 1025), "");
    for (int i = 0; slotd_equal(then, "write") && i < 5; i++)
        slotd_set_bytes(cx, slotd_format("%d", i), slotd_bytes(large, sizeof large - 1));
    for (int i = 0; slotd_equal(then, "emit") && i < 256; i++) slotd_emit(cx, "e", message);
    for (int i = 0; slotd_equal(then, "notify") && i < 64; i++) slotd_notify(cx, "e", message);
    for (int i = 0; slotd_equal(then, "call") && i < 100000; i++) slotd_get_bytes(cx, "k");
    if (slotd_equal(then, "reply"))
        return slotd_reply_bytes("text/plain", slotd_bytes(large, sizeof large));
    return slotd_reply(slotd_null());
}

TEST(a_call_is_kept_whole_or_not_at_all) {
    on_message = writes;
    slotd_session *session = slotd_new_session("session");
    slotd_put_state(session, "old", "1");
    static const char *const thens[] = {"reject", "trap", "value",  "key",  "write",
                                        "emit",   "call", "notify", "reply"};
    for (size_t i = 0; i < sizeof thens / sizeof *thens; i++) {
        char body[64];
        snprintf(body, sizeof body, "{\"then\": \"%s\"}", thens[i]);
        slotd_outcome outcome = slotd_send(session, NULL, body);
        CHECK(outcome.ended == (i ? SLOTD_TRAPPED : SLOTD_REJECTED));
        CHECK(i || outcome.retriable);
        CHECK(session->seq == 0 && session->event_count == 0 && slotd_state_count(session) == 1);
        CHECK(session->notified_count == 0);
        CHECK_TEXT(slotd_state(session, "old"), "1");
    }
    CHECK(slotd_send(session, NULL, "{\"then\": \"\"}").ended == SLOTD_REPLIED);
    CHECK(session->seq == 1 && session->event_count == 1 && session->events[0].seq == 1);
    CHECK(session->notified_count == 1 && session->notified[0].seq == 1);
    CHECK_TEXT(session->notified[0].kind, "passed");
    CHECK_JSON(session->notified[0].json, "1");
    CHECK_TEXT(slotd_state(session, "k"), "1");
    CHECK(!slotd_state(session, "old").data);
}

static slotd_result query_writes(const slotd_cx *cx, const slotd_json *query) {
    slotd_set((slotd_cx *)cx, "k", query);
    return slotd_reply(query);
}

TEST(a_query_cannot_write) {
    on_query = query_writes;
    slotd_session *session = slotd_new_session("session");
    CHECK(says(slotd_ask(session, "1"), "a query may not write"));
    CHECK(slotd_state_count(session) == 0);
}

static const char *migrates(slotd_cx *cx, const char *from) {
    slotd_set(cx, "from", slotd_text(from));
    if (!strcmp(from, "bad-state")) slotd_get(cx, "bad");
    if (!strcmp(from, "emit")) slotd_emit(cx, "e", slotd_null());
    return strcmp(from, "0.1.0") ? slotd_format("no way from %s", from) : NULL;
}

TEST(a_refused_migration_changes_nothing) {
    on_migrate = migrates;
    slotd_session *session = slotd_new_session("session");
    slotd_put_state(session, "bad", "?");
    CHECK_TEXT(slotd_migrate(session, "0.0.9").message, "no way from 0.0.9");
    slotd_outcome bad = slotd_migrate(session, "bad-state");
    CHECK(bad.ended == SLOTD_REFUSED && slotd_starts_with(bad.message, "the state under \"bad\""));
    CHECK(slotd_migrate(session, "emit").ended == SLOTD_TRAPPED);
    CHECK(slotd_state_count(session) == 1);
    CHECK(slotd_migrate(session, "0.1.0").ended == SLOTD_REPLIED);
    CHECK_TEXT(slotd_state(session, "from"), "\"0.1.0\"");
}

/* ---- context, scans, time and chance ---------------------------------------------------------- */

static slotd_result tells(slotd_cx *cx, const slotd_json *message) {
    (void)message;
    CHECK_TEXT(cx->session, "ä/1");
    CHECK_TEXT(cx->id, "id-1");
    CHECK_TEXT(cx->sender, "ann");
    CHECK_TEXT(cx->content_type, "application/json");
    CHECK(cx->seq == 1 && cx->origin == SLOTD_CLIENT && !cx->origin_name.data);
    struct timespec now;
    CHECK(!clock_gettime(CLOCK_MONOTONIC, &now));
    CHECK(cx->time_ms == 1234567 && slotd_time_ms(cx) == 1234567);
    CHECK(time(NULL) == 1234 && now.tv_sec == 1234 && now.tv_nsec == 567000000);
    return slotd_reply(slotd_null());
}

TEST(the_context_is_the_messages) {
    on_message = tells;
    slotd_session *session = slotd_new_session("ä/1");
    session->id = "id-1";
    session->time_ms = 1234567;
    CHECK(slotd_send(session, "ann", "0").ended == SLOTD_REPLIED);
}

static slotd_result scans(slotd_cx *cx, const slotd_json *message) {
    slotd_scan *scan = slotd_scan_all(cx, "k"), *behind = slotd_scan_after(cx, "k", "k0123");
    size_t count = 0;
    char expected[8] = "";
    while (slotd_next(scan)) {
        snprintf(expected, sizeof expected, "k%04zu", count);
        CHECK_TEXT(scan->key, expected);
        uint64_t value = slotd_value_u64(scan), again = slotd_value_u64(scan);
        CHECK(value == count && again == count);
        count++;
    }
    CHECK(count == 3000 && !slotd_next(scan) && !scan->key.data);
    CHECK(slotd_next(behind));
    CHECK_TEXT(behind->key, "k0124");
    CHECK(!slotd_next(slotd_scan_all(cx, "no")));
    return slotd_reply(message);
}

/* More than a page, and what other prefixes have. */
TEST(a_scan_reads_all_pages_in_order) {
    on_message = scans;
    slotd_session *session = slotd_new_session("session");
    char key[8], value[8];
    for (int i = 0; i < 3000; i++) {
        snprintf(key, sizeof key, "k%04d", i), snprintf(value, sizeof value, "%d", i);
        slotd_put_state(session, key, value);
    }
    slotd_put_state(session, "j", "-"), slotd_put_state(session, "l", "-");
    CHECK(slotd_send(session, NULL, "{}").ended == SLOTD_REPLIED);
}

static slotd_result rolls(slotd_cx *cx, const slotd_json *message) {
    (void)cx, (void)message;
    uint32_t numbers[] = {(uint32_t)rand(), (uint32_t)random(), arc4random(),
                          (uint32_t)lrand48(), arc4random_uniform(1000)};
    if (numbers[4] >= 1000) slotd_trap("%u is not below 1000", numbers[4]);
    char *text = slotd_alloc(80);
    for (size_t i = 0; i < 5; i++) snprintf(text + strlen(text), 16, "%u ", numbers[i]);
    return slotd_reply(slotd_text(text));
}

/* An instance serves many sessions in turn: what one drew must not show in the next one's. */
TEST(chance_begins_anew_with_each_call) {
    on_message = rolls;
    slotd_session *a = slotd_new_session("a"), *b = slotd_new_session("b");
    slotd_str first = slotd_send(a, NULL, "0").body, other = slotd_send(b, NULL, "0").body;
    slotd_str next = slotd_send(a, NULL, "0").body;
    CHECK(!slotd_equal(first, other) && !slotd_equal(first, next));
    slotd_session *again = slotd_new_session("a");
    CHECK_TEXT(slotd_send(again, NULL, "0").body, first);
    CHECK_TEXT(slotd_send(again, NULL, "0").body, next);
}

/* ---- memory ----------------------------------------------------------------------------------- */

static slotd_result takes_memory(slotd_cx *cx, const slotd_json *message) {
    (void)cx;
    for (size_t i = 0; i < 200; i++) {
        slotd_mark mark = slotd_mark_here();
        for (size_t size = 0; size < 40000; size += 997) {
            unsigned char *bytes = slotd_alloc(size);
            CHECK((uintptr_t)bytes % 8 == 0);
            for (size_t at = 0; at < size; at++) CHECK(bytes[at] == 0);
            memset(bytes, 0xff, size);
        }
        slotd_release(mark);
    }
    slotd_copy(slotd_bytes("", 0));
    CHECK(!slotd_copy(((slotd_str){NULL, 0})).data);
    return slotd_reply(message);
}

/* With the sanitizers on: memory that is given twice, or not zero, or not given back. */
TEST(memory_is_the_calls) { CHECK(on(takes_memory).ended == SLOTD_REPLIED); }

TEST(text_is_compared_and_cut) {
    CHECK(slotd_equal("a", "a") && !slotd_equal("a", "b") && !slotd_equal("a", "aa"));
    CHECK(slotd_starts_with("abc", "ab") && slotd_starts_with("abc", "") &&
          !slotd_starts_with("a", "ab"));
    CHECK_TEXT(slotd_from("abc", 1), "bc");
    CHECK_TEXT(slotd_from("abc", 9), "");
}
