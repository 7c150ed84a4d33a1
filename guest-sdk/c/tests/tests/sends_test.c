#include "told.h"

#include <string.h>

static bool says(slotd_outcome outcome, const char *words) {
    return traps_in(outcome, "tests/sends_test.c:", words);
}

/* ---- what is sent ---------------------------------------------------------------------------- */

static slotd_result sends_some(slotd_cx *cx) {
    CHECK(slotd_arrived(cx).kind == SLOTD_NO_ARRIVAL);
    slotd_send_to(cx, "stock/a/b", slotd_u64(1));
    slotd_send_for_reply(cx, "stock/c", "reserve", slotd_null());
    const char *why = "something";
    slotd_address to = {slotd_bytes("cart", 4), slotd_bytes("/", 1)};
    slotd_send_bytes_to(cx, to, "text/plain", "ä", (const char *)NULL, &why);
    CHECK(!why);
    return reply();
}

static slotd_result sends_and_traps(slotd_cx *cx) {
    slotd_send_to(cx, "stock/half", slotd_null());
    slotd_trap("as told");
}

static slotd_result sends_and_rejects(slotd_cx *cx) {
    slotd_send_to(cx, "stock/half", slotd_null());
    return slotd_reject("no", "No.");
}

/* A test could not say what a handler has sent, or would find what a node would not send. */
TEST(what_was_sent_is_there_in_order) {
    slotd_session *session = slotd_new_session("session");
    CHECK(told(session, sends_and_traps).ended == SLOTD_TRAPPED);
    CHECK(told(session, sends_some).ended == SLOTD_REPLIED);
    CHECK(told(session, sends_and_rejects).ended == SLOTD_REJECTED);
    CHECK(session->sent_count == 3);
    const slotd_sent *sent = session->sent;
    CHECK(sent[0].seq == 1);
    CHECK_TEXT(sent[0].to.service, "stock");
    CHECK_TEXT(sent[0].to.session, "a/b");
    CHECK_TEXT(sent[0].content_type, "application/json");
    CHECK_JSON(sent[0].json, "1");
    CHECK(!sent[0].reply_as.data);
    CHECK_TEXT(sent[1].reply_as, "reserve");
    CHECK_TEXT(sent[1].body, "null");
    CHECK_TEXT(sent[2].to.session, "/");
    CHECK_TEXT(sent[2].content_type, "text/plain");
    CHECK_TEXT(sent[2].body, "ä");
    CHECK(!sent[2].json && !sent[2].reply_as.data);
}

/* ---- what can't be sent ---------------------------------------------------------------------- */

static const char *send_to, *send_as;
static slotd_result sends_it(slotd_cx *cx) {
    slotd_send_for_reply(cx, send_to, send_as, slotd_null());
    return reply();
}

static slotd_outcome sent_to(slotd_session *session, const char *to, const char *reply_as) {
    send_to = to;
    send_as = reply_as;
    return told(session, sends_it);
}

static char *letters(char *text, size_t count) {
    memset(text, 'x', count);
    text[count] = 0;
    return text;
}

static void is_bad(slotd_outcome outcome, const char *words) {
    CHECK_TEXT(outcome.code, "bad-send");
    if (!strstr(outcome.message.data, words)) CHECK_TEXT(outcome.message, words);
}

static slotd_result goes_on(slotd_cx *cx) {
    const char *why;
    slotd_send_bytes_to(cx, slotd_address_of("stock"), "a/b", "", (const char *)NULL, &why);
    return slotd_reply(slotd_text(why));
}

/* A handler that passes its tests would be refused by a node. */
TEST(an_address_that_cannot_be_is_an_error) {
    slotd_session *session = slotd_new_session("session");
    is_bad(sent_to(session, "stock", NULL), "service/session");
    is_bad(sent_to(session, "/a", NULL), "a service name must have 1 to 64 bytes; this one has 0");
    is_bad(sent_to(session, "stock/", NULL), "a session id must have 1 to 256 bytes; this one has 0");
    is_bad(sent_to(session, "Stock/a", NULL), "service name \"Stock\"");
    is_bad(sent_to(session, "-/a", NULL), "service name \"-\"");
    is_bad(sent_to(session, "stock/a\nb", NULL), "has a control character");
    is_bad(sent_to(session, "stock/a", ""), "the name of a reply must have 1 to 128 bytes");
    is_bad(sent_to(session, "stock/a", "a\xc2\x85" "b"), "no control characters");
    char long_one[300], name[300];
    letters(long_one, 65);
    strcat(long_one, "/a");
    is_bad(sent_to(session, long_one, NULL), "this one has 65");
    strcpy(long_one, "a/");
    letters(long_one + 2, 257);
    is_bad(sent_to(session, long_one, NULL), "this one has 257");
    long_one[258] = 0;
    CHECK(sent_to(session, long_one, letters(name, 128)).ended == SLOTD_REPLIED);
    is_bad(sent_to(session, long_one, letters(name, 129)), "this one has 129");
    CHECK(session->sent_count == 1);
    slotd_outcome outcome = told(session, goes_on);
    CHECK(outcome.ended == SLOTD_REPLIED && session->sent_count == 1);
    slotd_str why;
    CHECK(slotd_as_text(outcome.json, &why) && strstr(why.data, "service/session"));
}

static uint64_t how_many;
static slotd_result sends_many(slotd_cx *cx) {
    for (uint64_t i = 0; i < how_many; i++) slotd_send_to(cx, "stock/a", slotd_u64(i));
    return reply();
}
static slotd_result sends_bytes(slotd_cx *cx) {
    slotd_send_bytes_to(cx, slotd_address_of("stock/a"), "a/b",
                        slotd_bytes(slotd_alloc((size_t)how_many), (size_t)how_many),
                        (const char *)NULL, NULL);
    return reply();
}

static slotd_result asks(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    slotd_send_to((slotd_cx *)cx, "stock/a", slotd_null());
    return reply();
}
static const char *migrates(slotd_cx *cx, const char *from) {
    (void)from;
    slotd_send_to(cx, "stock/a", slotd_null());
    return NULL;
}

TEST(limits_of_sends_are_the_hosts) {
    slotd_session *session = slotd_new_session("session");
    how_many = 256;
    CHECK(told(session, sends_many).ended == SLOTD_REPLIED && session->sent_count == 256);
    how_many = 257;
    CHECK(says(told(session, sends_many), "at most 256"));
    how_many = 256 * 1024;
    CHECK(told(session, sends_bytes).ended == SLOTD_REPLIED);
    how_many++;
    CHECK(says(told(session, sends_bytes), "262144 bytes"));
    on_query = asks;
    on_migrate = migrates;
    CHECK(says(slotd_ask(session, "{}"), "only `handle`"));
    CHECK(says(slotd_migrate(session, "1.0.0"), "only `handle`"));
    CHECK(session->sent_count == 257);
}

/* ---- what comes ------------------------------------------------------------------------------ */

static slotd_result says_who(slotd_cx *cx, const slotd_json *message) {
    CHECK(cx->origin == SLOTD_SESSION && !cx->sender.data && !cx->id.data);
    slotd_arrival from = slotd_arrived(cx);
    CHECK(from.kind == SLOTD_MESSAGE);
    return slotd_reply(slotd_object("name", slotd_text(cx->origin_name), "service",
                                    slotd_text(from.sender.service), "session",
                                    slotd_text(from.sender.session), "attempt",
                                    slotd_u64(from.attempt), "reply",
                                    slotd_bool(from.reply_wanted), "body", message));
}

TEST(a_message_of_a_session_says_so) {
    slotd_session *session = slotd_new_session("session");
    on_message = says_who;
    CHECK_JSON(slotd_deliver(session, "stock/a/b", "[1]").json,
               "{\"name\": \"stock/a/b\", \"service\": \"stock\", \"session\": \"a/b\","
               " \"attempt\": 1, \"reply\": false, \"body\": [1]}");
    slotd_outcome third =
        slotd_deliver_bytes(session, "s/a", "application/json", slotd_bytes("2", 1), 3, true);
    CHECK_JSON(third.json, "{\"name\": \"s/a\", \"service\": \"s\", \"session\": \"a\","
                           " \"attempt\": 3, \"reply\": true, \"body\": 2}");
    CHECK(session->seq == 2);
}

static slotd_result keeps_answer(slotd_cx *cx, const slotd_arrival *answer,
                                 const slotd_json *said) {
    CHECK(!said == answer->refused);
    slotd_str text;
    if (slotd_as_text(said, &text) && slotd_equal(text, "later") && answer->attempt < 3)
        return slotd_reject_for_now("later", "Later.");
    if (slotd_as_text(said, &text) && slotd_equal(text, "never"))
        return slotd_reject("never", "Never.");
    /* It moves what was sent before. */
    for (int i = 0; i < 10; i++) slotd_send_to(cx, "stock/thanks", slotd_null());
    slotd_json *kept = slotd_object("name", slotd_text(answer->name), "from",
                                    slotd_text(answer->sender.session), "attempt",
                                    slotd_u64(answer->attempt));
    if (said) slotd_put(kept, "said", said);
    if (answer->refused) {
        slotd_put(kept, "code", slotd_text(answer->code));
        slotd_put(kept, "message", slotd_text(answer->message));
    }
    slotd_set(cx, "answer", kept);
    return reply();
}

static bool kept_is(const slotd_session *session, const char *expected) {
    return slotd_same(slotd_parse(slotd_state(session, "answer"), NULL),
                      slotd_parse(expected, NULL));
}

/* A test could not say what comes of an answer, or of a handler that fails it. */
TEST(an_answer_comes_back_once_or_as_often_as_its_handler_fails) {
    slotd_session *session = slotd_new_session("session");
    on_answer = keeps_answer;
    for (int i = 0; i < 5; i++) CHECK(sent_to(session, "stock/a", "r").ended == SLOTD_REPLIED);
    CHECK(slotd_answer(session, "r", "{\"left\": 4}").ended == SLOTD_REPLIED);
    CHECK(kept_is(session, "{\"name\": \"r\", \"from\": \"a\", \"attempt\": 1,"
                           " \"said\": {\"left\": 4}}"));
    CHECK(slotd_refuse(session, "r", "sold-out", "There is none.").ended == SLOTD_REPLIED);
    CHECK(kept_is(session, "{\"name\": \"r\", \"from\": \"a\", \"attempt\": 1,"
                           " \"code\": \"sold-out\", \"message\": \"There is none.\"}"));
    for (int i = 0; i < 2; i++) CHECK_TEXT(slotd_answer(session, "r", "\"later\"").code, "later");
    CHECK(slotd_answer(session, "r", "\"later\"").ended == SLOTD_REPLIED);
    CHECK(kept_is(session, "{\"name\": \"r\", \"from\": \"a\", \"attempt\": 3,"
                           " \"said\": \"later\"}"));
    CHECK_TEXT(slotd_answer(session, "r", "\"never\"").code, "never");
    CHECK(session->sent[0].answered && session->sent[1].answered);
    CHECK(session->sent[2].answered && session->sent[2].failures == 2);
    CHECK(session->sent[3].answered && session->sent[3].failures == 1);
    CHECK(!session->sent[4].answered && session->sent[4].failures == 0);
    CHECK_TEXT(slotd_answer(session, "r", "no JSON").code, "bad-message");
    CHECK(session->sent[4].answered && session->sent_count == 5 + 3 * 10);
}
