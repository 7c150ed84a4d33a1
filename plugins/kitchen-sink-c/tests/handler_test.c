#include "slotd_test.h"

#include <string.h>

static slotd_outcome send(slotd_session *session, const char *op) {
    return slotd_send(session, "ann", op);
}

/* All languages' plugins answer alike: this one must not be the one that differs. */
TEST(does_what_it_is_told) {
    slotd_session *sink = slotd_new_session("session");
    static const struct {
        const char *op, *expected;
    } told[] = {
        {"{\"op\": \"echo\", \"value\": {\"ä\": [1, null]}}", "{\"value\": {\"ä\": [1, null]}}"},
        {"{\"op\": \"context\"}",
         "{\"session\": \"session\", \"seq\": 2, \"id\": null, \"sender\": \"ann\","
         " \"content_type\": \"application/json\"}"},
        {"{\"op\": \"get\", \"key\": \"k\"}", "{\"value\": null}"},
        {"{\"op\": \"set\", \"key\": \"k\", \"value\": [ 1 ]}", "{}"},
        {"{\"op\": \"get\", \"key\": \"k\"}", "{\"value\": [1]}"},
        {"{\"op\": \"get-bytes\", \"key\": \"k\"}", "{\"hex\": \"5b315d\"}"},
        {"{\"op\": \"set-bytes\", \"key\": \"b\", \"hex\": \"00fF\"}", "{}"},
        {"{\"op\": \"get-bytes\", \"key\": \"b\"}", "{\"hex\": \"00ff\"}"},
        {"{\"op\": \"delete\", \"key\": \"b\"}", "{}"},
        {"{\"op\": \"get-bytes\", \"key\": \"b\"}", "{\"hex\": null}"},
        {"{\"op\": \"fill\", \"prefix\": \"f\", \"count\": 1001, \"bytes\": 1}", "{}"},
        {"{\"op\": \"scan\", \"prefix\": \"f\", \"after\": \"f00998\", \"limit\": 1}",
         "{\"pairs\": [[\"f00999\", \"x\"]]}"},
        {"{\"op\": \"scan\", \"prefix\": \"f\", \"after\": null, \"limit\": 2}",
         "{\"pairs\": [[\"f00000\", \"x\"], [\"f00001\", \"x\"]]}"},
        {"{\"op\": \"scan-all\", \"prefix\": \"f\"}",
         "{\"count\": 1001, \"first\": \"f00000\", \"last\": \"f01000\"}"},
        {"{\"op\": \"scan-all\", \"prefix\": \"none\"}",
         "{\"count\": 0, \"first\": null, \"last\": null}"},
        {"{\"op\": \"add64\", \"key\": \"n\", \"n\": \"18446744073709551615\"}",
         "{\"sum\": \"18446744073709551615\"}"},
        {"{\"op\": \"add64\", \"key\": \"n\", \"n\": \"2\"}", "{\"sum\": \"1\"}"},
        {"{\"op\": \"clock\"}", "{\"time_ms\": 1700000000000, \"native_ms\": 1700000000000}"},
        {"{\"op\": \"deep\", \"depth\": 10}", "{}"},
        {"{\"op\": \"big\", \"bytes\": 3}", "{\"text\": \"xxx\"}"},
        {"{\"op\": \"emit\", \"kind\": \"k\", \"value\": 1, \"times\": 2}", "{}"},
        {"{\"op\": \"notify\", \"kind\": \"k\", \"value\": 1, \"times\": 3}", "{}"},
        {"{\"op\": \"log\", \"level\": \"warn\", \"text\": \"t\"}", "{}"},
    };
    for (size_t i = 0; i < sizeof told / sizeof *told; i++) {
        slotd_outcome outcome = send(sink, told[i].op);
        if (outcome.ended != SLOTD_REPLIED)
            slotd_failed(__FILE__, __LINE__, "%s: %s", told[i].op, outcome.message.data);
        CHECK_JSON(outcome.json, told[i].expected);
    }
    CHECK(sink->event_count == 2 && sink->notified_count == 3);
    CHECK(sink->log_count == 1 && sink->log[0].level == SLOTD_WARN);
    CHECK_TEXT(sink->log[0].text, "t");
    slotd_outcome raw = slotd_send_bytes(sink, NULL, "image/x-y", slotd_bytes("\0\xff", 2));
    CHECK_TEXT(raw.content_type, "image/x-y");
    CHECK_TEXT(raw.body, slotd_bytes("\0\xff", 2));
}

TEST(expires_as_it_is_told) {
    slotd_session *sink = slotd_new_session("session");
    uint64_t now = sink->time_ms;
    CHECK_JSON(send(sink, "{\"op\": \"expire\", \"after\": 50}").json, "{}");
    CHECK(sink->expires_ms == now + 50);
    CHECK_JSON(send(sink, "{\"op\": \"keep\"}").json, "{}");
    CHECK(sink->expires_ms == 0);
    CHECK_JSON(send(sink, "{\"op\": \"expire\", \"at\": 5}").json, "{}");
    CHECK(sink->expires_ms == now);
    static const char *const bad[] = {
        "{\"op\": \"expire\"}",
        "{\"op\": \"expire\", \"after\": 1, \"at\": 1}",
        "{\"op\": \"expire\", \"at\": \"5\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_TEXT(send(sink, bad[i]).code, "bad-message");
    CHECK_TEXT(send(sink, "{\"op\": \"expire\", \"at\": 9007199254740991}").code, "bad-moment");
    CHECK(slotd_ask(sink, "{\"op\": \"expire\", \"at\": 5}").ended == SLOTD_TRAPPED);
    CHECK(slotd_ask(sink, "{\"op\": \"keep\"}").ended == SLOTD_TRAPPED);
    CHECK(sink->expires_ms == now && sink->seq == 3);
    slotd_advance(sink, 0);
    CHECK(sink->seq == 0);
}

/* A timer that is set in one language fires in another. */
TEST(sets_timers_and_tells_of_them) {
    slotd_session *sink = slotd_new_session("session");
    static const struct {
        const char *op, *expected;
    } told[] = {
        {"{\"op\": \"timer\", \"name\": \"b\", \"after\": 50, \"body\": {\"fails\": 1}}",
         "{\"due\": 1700000000050}"},
        {"{\"op\": \"timer\", \"name\": \"a\", \"every\": 1000,"
         " \"body\": {\"op\": \"set\", \"key\": \"k\", \"value\": 7}}",
         "{\"due\": 1700000001000}"},
        {"{\"op\": \"timer\", \"name\": \"c\", \"at\": 5, \"body\": null}",
         "{\"due\": 1700000000000}"},
        {"{\"op\": \"timer\", \"name\": \"d\", \"cron\": [\"* * * * *\", \"UTC\"], \"body\": 1}",
         "{\"due\": 1700000040000}"},
        {"{\"op\": \"cancel-timer\", \"name\": \"d\"}", "{\"was\": true}"},
        {"{\"op\": \"cancel-timer\", \"name\": \"d\"}", "{\"was\": false}"},
    };
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        CHECK_JSON(send(sink, told[i].op).json, told[i].expected);
    static const char *const refused[] = {
        "{\"op\": \"timer\", \"name\": \"d\", \"every\": 1, \"body\": 1}",
        "{\"op\": \"timer\", \"name\": \"d\", \"cron\": [\"* *\", \"UTC\"], \"body\": 1}",
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        CHECK_TEXT(send(sink, refused[i]).code, "bad-moment");
    static const char *const bad[] = {
        "{\"op\": \"timer\", \"name\": \"d\", \"body\": 1}",
        "{\"op\": \"timer\", \"name\": \"d\", \"cron\": [\"* * * * *\"], \"body\": 1}",
        "{\"op\": \"timer\", \"name\": \"d\", \"after\": 1}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_TEXT(send(sink, bad[i]).code, "bad-message");
    const char *listed = "[{\"name\": \"a\", \"due\": 1700000001000, \"failures\": 0},"
                         " {\"name\": \"b\", \"due\": 1700000000050, \"failures\": 0},"
                         " {\"name\": \"c\", \"due\": 1700000000000, \"failures\": 0}]";
    CHECK_JSON(send(sink, "{\"op\": \"timers\"}").json, listed);
    CHECK_JSON(slotd_ask(sink, "{\"op\": \"timers\"}").json, listed);
    CHECK(slotd_advance(sink, 1050) == 4 && sink->event_count == 3);
    CHECK(sink->fired[1].outcome.ended == SLOTD_REJECTED && sink->fired[1].outcome.retriable);
    CHECK_TEXT(slotd_state(sink, "k"), "7");
    const char *said = "{\"name\": \"b\", \"due\": 1700000000050, \"missed\": 0, \"attempt\": 2,"
                       " \"body\": {\"fails\": 1}}";
    CHECK_TEXT(sink->events[2].kind, "fired");
    CHECK_JSON(sink->events[2].json, said);
    CHECK_JSON(sink->fired[3].outcome.json, said);
}

/* A message that runs twice must give the same, or a replay would differ; and two messages must
 * not, or ids that are made so would be given twice. */
TEST(chance_is_the_messages) {
    slotd_session *a = slotd_new_session("a"), *again = slotd_new_session("a");
    const char *random = "{\"op\": \"random\"}";
    slotd_outcome first = send(a, random), same = send(again, random), next = send(a, random);
    CHECK_TEXT(first.body, same.body);
    CHECK(!slotd_equal(first.body, next.body));
    CHECK(!slotd_equal(first.body, send(slotd_new_session("b"), random).body));
    slotd_outcome asked = slotd_ask(again, random);
    CHECK(!slotd_equal(first.body, asked.body));
    CHECK_TEXT(slotd_ask(again, random).body, asked.body);
}

/* As above, for what must fail. */
TEST(fails_as_it_is_told) {
    slotd_session *sink = slotd_new_session("session");
    CHECK(send(sink, "{\"op\": \"set\", \"key\": \"k\", \"value\": 1}").ended == SLOTD_REPLIED);
    slotd_outcome refused = send(sink, "{\"op\": \"reject\", \"code\": \"c\", \"message\": \"m\","
                                       " \"retriable\": true, \"set\": \"k\"}");
    CHECK(refused.ended == SLOTD_REJECTED && refused.retriable);
    CHECK_TEXT(refused.code, "c");
    CHECK_TEXT(refused.message, "m");
    static const char *const bad[] = {
        "{\"op\": \"nothing\"}", "{\"op\": \"get\"}", "{\"op\": \"get\", \"key\": 1}",
        "{\"op\": \"throw\"}",   "[]",                "",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK_TEXT(send(sink, bad[i]).code, "bad-message");
        CHECK_TEXT(slotd_ask(sink, bad[i]).code, "bad-query");
    }
    static const char *const odd[] = {
        "{\"op\": \"set-bytes\", \"key\": \"k\", \"hex\": \"0\"}",
        "{\"op\": \"add64\", \"key\": \"k\", \"n\": \"-1\"}",
        "{\"op\": \"log\", \"level\": \"loud\", \"text\": \"\"}",
        "{\"op\": \"send\", \"body\": 1}",
        "{\"op\": \"send\", \"to\": \"a/b\"}",
        "{\"op\": \"send\", \"to\": \"a/b\", \"body\": 1, \"hex\": \"00\"}",
        "{\"op\": \"send\", \"to\": \"a/b\", \"hex\": \"0\"}",
    };
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        CHECK_TEXT(send(sink, odd[i]).code, "bad-message");
    slotd_outcome thrown = send(sink, "{\"op\": \"throw\", \"message\": \"m\", \"set\": \"k\"}");
    CHECK(thrown.ended == SLOTD_TRAPPED);
    CHECK(strstr(thrown.message.data, "src/handler.c:") != NULL);
    static const char *const forbidden[] = {
        "{\"op\": \"set\", \"key\": \"k\", \"value\": 2}",
        "{\"op\": \"delete\", \"key\": \"k\"}",
        "{\"op\": \"emit\", \"kind\": \"k\", \"value\": 2}",
        "{\"op\": \"notify\", \"kind\": \"k\", \"value\": 2}",
        "{\"op\": \"timer\", \"name\": \"n\", \"after\": 1, \"body\": 2}",
        "{\"op\": \"cancel-timer\", \"name\": \"n\"}",
        "{\"op\": \"send\", \"to\": \"a/b\", \"body\": 1}",
        "{\"op\": \"throw\", \"message\": \"m\"}",
    };
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        CHECK(slotd_ask(sink, forbidden[i]).ended == SLOTD_TRAPPED);
    slotd_outcome migrated = slotd_migrate(sink, "0.0.9");
    CHECK(migrated.ended == SLOTD_REFUSED);
    CHECK_TEXT(migrated.message, "no way from 0.0.9");
    CHECK(slotd_migrate(sink, "0.0.8").ended == SLOTD_TRAPPED);
    CHECK(sink->seq == 1 && slotd_state_count(sink) == 1);
    CHECK_TEXT(slotd_state(sink, "k"), "1");
    CHECK(slotd_migrate(sink, "0.1.0").ended == SLOTD_REPLIED);
    CHECK_TEXT(slotd_state(sink, "migrated"), "{\"from\":\"0.1.0\"}");
}

/* What is sent in one language is understood, and answered, in another. */
TEST(sends_and_answers_as_it_is_told) {
    slotd_session *sink = slotd_new_session("session");
    static const char *const sends[] = {
        "{\"op\": \"send\", \"to\": \"s/a/b\", \"body\": null}",
        "{\"op\": \"send\", \"to\": \"s/a\", \"hex\": \"00ff\", \"reply\": \"n\"}",
        ("{\"op\": \"send\", \"to\": \"s/a\", \"body\": {\"answer\": {\"fails\": 1}},"
         " \"reply\": \"n\", \"times\": 2}"),
    };
    for (size_t i = 0; i < sizeof sends / sizeof *sends; i++)
        CHECK_JSON(send(sink, sends[i]).json, "{}");
    CHECK(sink->sent_count == 4);
    CHECK_TEXT(sink->sent[0].to.session, "a/b");
    CHECK_TEXT(sink->sent[0].body, "null");
    CHECK(!sink->sent[0].reply_as.data);
    CHECK_TEXT(sink->sent[1].content_type, "application/octet-stream");
    CHECK_TEXT(sink->sent[1].body, slotd_bytes("\0\xff", 2));
    CHECK_TEXT(sink->sent[3].reply_as, "n");
    CHECK_JSON(sink->sent[3].json, "{\"answer\": {\"fails\": 1}}");
    static const char *const bad[] = {
        "{\"op\": \"send\", \"to\": \"s\", \"body\": 1}",
        "{\"op\": \"send\", \"to\": \"S/a\", \"body\": 1}",
        "{\"op\": \"send\", \"to\": \"s/\", \"hex\": \"00\"}",
        "{\"op\": \"send\", \"to\": \"s/a\", \"body\": 1, \"reply\": \"\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_TEXT(send(sink, bad[i]).code, "bad-send");

    CHECK_JSON(slotd_deliver(sink, "s/a/b", "[1]").json,
               "{\"from\": \"s/a/b\", \"attempt\": 1, \"reply\": false, \"body\": [1]}");
    const char *told = "{\"fails\": 1, \"op\": \"set\", \"key\": \"k\", \"value\": 2}";
    CHECK_TEXT(slotd_deliver(sink, "s/a/b", told).code, "told-to");
    slotd_outcome second = slotd_deliver_bytes(sink, "s/a/b", "application/json",
                                               slotd_bytes(told, strlen(told)), 2, true);
    CHECK_JSON(second.json, "{\"from\": \"s/a/b\", \"attempt\": 2, \"reply\": true, \"body\":"
                            " {\"fails\": 1, \"op\": \"set\", \"key\": \"k\", \"value\": 2}}");
    CHECK_TEXT(slotd_state(sink, "k"), "2");
    CHECK_TEXT(sink->events[sink->event_count - 1].kind, "received");
    CHECK_TEXT(slotd_deliver_bytes(sink, "s/a", "a/b", slotd_bytes("x", 1), 1, true).body, "x");

    CHECK_JSON(slotd_answer_bytes(sink, "n", "a/b", slotd_bytes("\0\xfe", 2)).json,
               "{\"name\": \"n\", \"from\": \"s/a\", \"attempt\": 1, \"refusal\": null,"
               " \"body\": \"00fe\"}");
    const char *reply = "{\"body\": {\"answer\": {\"fails\": 1}}}";
    CHECK_TEXT(slotd_answer(sink, "n", reply).code, "told-to");
    CHECK_JSON(slotd_answer(sink, "n", reply).json,
               "{\"name\": \"n\", \"from\": \"s/a\", \"attempt\": 2, \"refusal\": null,"
               " \"body\": {\"body\": {\"answer\": {\"fails\": 1}}}}");
    CHECK_JSON(slotd_refuse(sink, "n", "c", "m").json,
               "{\"name\": \"n\", \"from\": \"s/a\", \"attempt\": 1, \"refusal\": {\"code\": \"c\","
               " \"message\": \"m\", \"retriable\": false}, \"body\": null}");
    CHECK_TEXT(sink->events[sink->event_count - 1].kind, "answered");
}

/* What is asked for in one language is asked for in another. */
TEST(asks_over_http_as_it_is_told) {
    slotd_session *sink = slotd_new_session("session");
    static const char *const asks[] = {
        ("{\"op\": \"request\", \"id\": \"a\", \"method\": \"POST\", \"url\": \"https://a/b\","
         " \"headers\": [[\"A\", \"{{secret:S}}\"], [\"b\", \"c\"]], \"body\": \"ä\","
         " \"options\": {\"timeout_ms\": 1, \"deadline_ms\": 2, \"attempts\": 3, \"redirects\": 0,"
         " \"answer_bytes\": 4, \"keep_headers\": [\"x-*\"],"
         " \"stream\": {\"kind\": \"k\", \"form\": {\"joined\": \"a.0\"}}}}"),
        ("{\"op\": \"request\", \"id\": \"b\", \"method\": \"POST\", \"url\": \"https://a/b\","
         " \"options\": {\"stream\": {\"kind\": \"k\", \"form\": \"data\"}}}"),
        "{\"op\": \"request\", \"id\": \"c\", \"method\": \"GET\", \"url\": \"http://a\"}",
    };
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++)
        CHECK_JSON(send(sink, asks[i]).json, "null");
    slotd_outcome wrong = send(sink, "{\"op\": \"request\", \"id\": \"d\", \"method\": \"GET\","
                                     " \"url\": \"http://a\", \"options\": {\"attempts\": 0}}");
    slotd_str why = {NULL, 0};
    CHECK(slotd_as_text(slotd_member(wrong.json, "problem"), &why) && strstr(why.data, "not 0"));
    CHECK(sink->request_count == 3);
    const slotd_request *asked = &sink->requests[0].details;
    CHECK_TEXT(asked->method, "POST");
    CHECK_TEXT(asked->body, "ä");
    CHECK(asked->header_count == 2 && asked->kept_count == 1);
    CHECK_TEXT(asked->headers[0].value, "{{secret:S}}");
    CHECK(asked->timeout_ms == 1 && asked->deadline_ms == 2 && asked->attempts == 3);
    CHECK(asked->redirects == 0 && asked->answer_bytes == 4 && asked->form == SLOTD_SHOW_JOINED);
    CHECK_TEXT(asked->path, "a.0");
    CHECK(sink->requests[1].details.form == SLOTD_SHOW_DATA);
    CHECK(sink->requests[2].details.form == SLOTD_SHOW_NOTHING);
    static const char *const bad[] = {
        "{\"op\": \"request\", \"id\": \"a\", \"method\": \"GET\"}",
        ("{\"op\": \"request\", \"id\": \"a\", \"method\": \"GET\", \"url\": \"http://a\","
         " \"headers\": [1]}"),
        ("{\"op\": \"request\", \"id\": \"a\", \"method\": \"GET\", \"url\": \"http://a\","
         " \"options\": {\"attempts\": -1}}"),
        "{\"op\": \"cancel-request\"}",
        "{\"op\": \"watch\", \"wanted\": 1}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_TEXT(send(sink, bad[i]).code, "bad-message");
    CHECK_JSON(send(sink, "{\"op\": \"open-requests\"}").json, "[\"a\", \"b\", \"c\"]");
    static const char *const cancel = "{\"op\": \"cancel-request\", \"id\": \"c\"}";
    CHECK_JSON(send(sink, cancel).json, "true");
    CHECK_JSON(send(sink, cancel).json, "false");
    CHECK_JSON(slotd_ask(sink, "{\"op\": \"open-requests\"}").json, "[\"a\", \"b\"]");

    slotd_part(sink, "a", "Hal");
    slotd_part(sink, "a", "lo");
    slotd_put_state(sink, "fail-answers", "null");
    slotd_outcome failed = slotd_end(sink, "a");
    CHECK(failed.retriable);
    CHECK_TEXT(failed.code, "told-to");
    send(sink, "{\"op\": \"delete\", \"key\": \"fail-answers\"}");
#define FIRST \
    "{\"id\": \"a\", \"status\": 200, \"body\": \"Hallo\", \"attempts\": 1, \"attempt\": 2}"
#define SECOND \
    "{\"id\": \"b\", \"failure\": \"dns\", \"body\": \"\", \"attempts\": 1, \"attempt\": 1}"
    CHECK_JSON(slotd_end(sink, "a").json, FIRST);
    CHECK_JSON(slotd_fail_request(sink, "b", "dns", "No.").json, SECOND);
    CHECK_TEXT(sink->events[sink->event_count - 1].kind, "answered");
    CHECK_JSON(sink->events[sink->event_count - 1].json, SECOND);
    CHECK_JSON(slotd_parse(slotd_state(sink, "answers"), NULL), "[" FIRST ", " SECOND "]");
}

TEST(watches_and_closes_as_it_is_told) {
    slotd_session *sink = slotd_new_session("session");
    CHECK_JSON(send(sink, "{\"op\": \"watch\", \"wanted\": true}").json, "{}");
    CHECK_JSON(slotd_tell_presence(sink, true).json, "true");
    CHECK_JSON(slotd_tell_presence(sink, false).json, "false");
    CHECK_TEXT(sink->events[1].kind, "presence");
    CHECK_JSON(sink->events[1].json, "false");
    CHECK_TEXT(slotd_state(sink, "presence"), "[true,false]");
    CHECK_JSON(send(sink, "{\"op\": \"watch\", \"wanted\": false}").json, "{}");
    CHECK(!sink->watches);
    static const char *const forbidden[] = {
        "{\"op\": \"request\", \"id\": \"a\", \"method\": \"GET\", \"url\": \"http://a\"}",
        "{\"op\": \"cancel-request\", \"id\": \"a\"}",
        "{\"op\": \"close\"}",
        "{\"op\": \"watch\", \"wanted\": true}",
    };
    for (size_t i = 0; i < sizeof forbidden / sizeof *forbidden; i++)
        CHECK(slotd_ask(sink, forbidden[i]).ended == SLOTD_TRAPPED);
    CHECK_JSON(send(sink, "{\"op\": \"close\"}").json, "{}");
    CHECK(sink->closed);
}

/* Who asks is looked up once for messages, and once for queries. */
TEST(says_who_its_client_is) {
    slotd_session *sink = slotd_new_session("session");
    const char *asks = "{\"op\": \"client\"}";
    CHECK_JSON(send(sink, asks).json, "null");
    slotd_set_client(sink, "accounts", "ann");
    slotd_add_claim(sink, "role", "staff");
    const char *ann =
        "{\"kind\": \"accounts\", \"subject\": \"ann\", \"claims\": {\"role\": \"staff\"}}";
    CHECK_JSON(send(sink, asks).json, ann);
    CHECK_JSON(slotd_ask(sink, asks).json, ann);
}
