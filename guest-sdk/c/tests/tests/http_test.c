#include "told.h"

#include <string.h>

#define URL "https://api.example.com/v1/chat"

static bool says(slotd_outcome outcome, const char *words) {
    return traps_in(outcome, "tests/http_test.c:", words);
}

/* ---- what is asked for ----------------------------------------------------------------------- */

static slotd_result asks_all(slotd_cx *cx) {
    CHECK(!slotd_http_answered(cx).id.data);
    slotd_request *request = slotd_request_to("POST", URL);
    const char *key = slotd_format("Bearer %s", slotd_secret("API_KEY"));
    slotd_request_header(request, "authorization", key);
    slotd_request_json(request, slotd_object("n", slotd_u64(1)));
    request->timeout_ms = 5000;
    request->redirects = 0;
    slotd_request_keep(request, "x-ratelimit-*");
    slotd_request_keep(request, "server");
    slotd_request_show_joined(request, "token", "choices.0.delta.content");
    slotd_request_send(cx, "all", request);
    return reply();
}

static slotd_result asks_for_bytes(slotd_cx *cx) {
    slotd_request *request = slotd_request_to("PUT", URL);
    slotd_request_body(request, "a/b", slotd_bytes("\0\xff", 2));
    slotd_request_show_data(request, "event");
    const char *why = "something";
    slotd_request_try(cx, "bytes", request, &why);
    CHECK(!why);
    return reply();
}

static slotd_result asks_and_traps(slotd_cx *cx) {
    slotd_request_send(cx, "half", slotd_request_to("GET", URL));
    slotd_request_cancel(cx, "all");
    slotd_trap("as told");
}

static slotd_result asks_and_rejects(slotd_cx *cx) {
    slotd_request_send(cx, "half", slotd_request_to("GET", URL));
    slotd_request_cancel(cx, "all");
    return slotd_reject("no", "No.");
}

/* A test could not say what a handler has asked for, or would find what a node would not ask. */
TEST(what_was_asked_for_is_there_in_order) {
    slotd_session *session = slotd_new_session("session");
    CHECK(told(session, asks_all).ended == SLOTD_REPLIED);
    CHECK(told(session, asks_and_traps).ended == SLOTD_TRAPPED);
    CHECK(told(session, asks_and_rejects).ended == SLOTD_REJECTED);
    CHECK(told(session, asks_for_bytes).ended == SLOTD_REPLIED);
    CHECK(session->request_count == 2);
    const slotd_requested *all = &session->requests[0], *bytes = &session->requests[1];
    CHECK(all->seq == 1 && all->open && all->attempts == 1 && all->failures == 0);
    CHECK_TEXT(all->id, "all");
    CHECK_TEXT(all->details.method, "POST");
    CHECK_TEXT(all->details.url, URL);
    CHECK(all->details.header_count == 2);
    CHECK_TEXT(all->details.headers[0].value, "Bearer {{secret:API_KEY}}");
    CHECK_TEXT(all->details.headers[1].key, "content-type");
    CHECK_TEXT(all->details.headers[1].value, "application/json");
    CHECK_JSON(all->json, "{\"n\": 1}");
    CHECK(all->details.timeout_ms == 5000 && all->details.deadline_ms == -1);
    CHECK(all->details.redirects == 0 && all->details.attempts == -1);
    CHECK(all->details.kept_count == 2);
    CHECK_TEXT(all->details.kept[1], "server");
    CHECK(all->details.form == SLOTD_SHOW_JOINED);
    CHECK_TEXT(all->details.kind, "token");
    CHECK_TEXT(all->details.path, "choices.0.delta.content");
    CHECK_TEXT(bytes->details.body, slotd_bytes("\0\xff", 2));
    CHECK(bytes->seq == 2 && !bytes->json && bytes->details.form == SLOTD_SHOW_DATA);
}

/* ---- what can't be asked for ------------------------------------------------------------------ */

static slotd_request ask;
static const char *ask_id;
static slotd_result asks_it(slotd_cx *cx) {
    slotd_request_send(cx, ask_id, &ask);
    return reply();
}

/* A request without options. */
static slotd_request plain(const char *method, const char *url) {
    return (slotd_request){
        .method = slotd_bytes(method, strlen(method)),
        .url = slotd_bytes(url, strlen(url)),
        .timeout_ms = -1,
        .deadline_ms = -1,
        .attempts = -1,
        .redirects = -1,
        .answer_bytes = -1,
        .form = SLOTD_SHOW_NOTHING,
    };
}

static slotd_outcome asked(slotd_session *session, const char *id, slotd_request request) {
    ask = request;
    ask_id = id;
    return told(session, asks_it);
}

static slotd_request with_header(slotd_pair *header, const char *name, const char *value) {
    slotd_request request = plain("GET", URL);
    *header = (slotd_pair){slotd_bytes(name, strlen(name)), slotd_bytes(value, strlen(value))};
    request.headers = header;
    request.header_count = 1;
    return request;
}

static slotd_request shown(slotd_form form, const char *kind, const char *path) {
    slotd_request request = plain("GET", URL);
    request.form = form;
    request.kind = slotd_bytes(kind, strlen(kind));
    request.path = slotd_bytes(path, strlen(path));
    return request;
}

static uint64_t how_many;
static slotd_result asks_many(slotd_cx *cx) {
    for (uint64_t i = 0; i < how_many; i++)
        slotd_request_send(cx, slotd_format("%d/%d", (int)cx->seq, (int)i),
                           slotd_request_to("GET", URL));
    return reply();
}

static slotd_result asks_in_query(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    slotd_request_send((slotd_cx *)cx, "a", slotd_request_to("GET", URL));
    return reply();
}
static const char *cancels_in_migrate(slotd_cx *cx, const char *from) {
    (void)from;
    slotd_request_cancel(cx, "a");
    return NULL;
}

/* A handler that passes its tests would be stopped by a node. */
TEST(what_a_node_refuses_is_refused) {
    slotd_session *session = slotd_new_session("session");
    static char large[256 * 1024 + 1], long_id[129];
    slotd_pair header;
    CHECK(says(asked(session, "a", plain("GET", "")), "invalid URL"));
    CHECK(says(asked(session, "a", plain("GET", "ftp://a")), "invalid URL"));
    CHECK(says(asked(session, "a", plain("GET", "https:///a")), "invalid URL"));
    CHECK(says(asked(session, "a", plain("GET", "https://a/b c")), "invalid URL"));
    CHECK(says(asked(session, "a", plain("G T", URL)), "invalid method"));
    CHECK(says(asked(session, "a", plain("", URL)), "invalid method"));
    CHECK(says(asked(session, "a", plain("TRACE", URL)), "invalid method"));
    CHECK(says(asked(session, "a", with_header(&header, "a b", "")), "invalid header name"));
    CHECK(says(asked(session, "a", with_header(&header, "Host", "a")), "slotd sets the header Host"));
    CHECK(says(asked(session, "a", with_header(&header, "a", "b\r\nc: d")), "control character"));
    slotd_request request = plain("POST", URL);
    request.body = slotd_bytes(large, sizeof large);
    CHECK(says(asked(session, "a", request), "262144 bytes"));
    CHECK(says(asked(session, "a", shown(SLOTD_SHOW_TEXT, "a b", "")), "one word"));
    CHECK(says(asked(session, "a", shown(SLOTD_SHOW_DATA, "", "")), "one word"));
    CHECK(says(asked(session, "a", shown(SLOTD_SHOW_TEXT, "error", "")), "reserved"));
    CHECK(says(asked(session, "a", shown(SLOTD_SHOW_TEXT, "slotd.a", "")), "reserved"));
    memset(large, 'x', 65);
    slotd_str kept = slotd_bytes(large, 65);
    slotd_request keeps = plain("GET", URL);
    keeps.kept = &kept;
    keeps.kept_count = 1;
    CHECK(says(asked(session, "a", keeps), "64 bytes in a name"));
    how_many = 17;
    CHECK(says(told(session, asks_many), "at most 16"));
    on_query = asks_in_query;
    on_migrate = cancels_in_migrate;
    CHECK(says(slotd_ask(session, "{}"), "only `handle`"));
    CHECK(says(slotd_migrate(session, "1.0.0"), "only `handle`"));
    CHECK(session->request_count == 0);

    CHECK(asked(session, "a", plain("get", "http://[::1]:80/a?b#c")).ended == SLOTD_REPLIED);
    CHECK(asked(session, "a", with_header(&header, "x", "ä\tb")).ended == SLOTD_REPLIED);
    request.body.size--;
    memset(long_id, 'x', 128);
    CHECK(asked(session, long_id, request).ended == SLOTD_REPLIED);
    /* Two are open; with these 98. */
    how_many = 16;
    for (int i = 0; i < 6; i++) CHECK(told(session, asks_many).ended == SLOTD_REPLIED);
    how_many = 3;
    CHECK(says(told(session, asks_many), "outbox-full"));
    how_many = 2;
    CHECK(told(session, asks_many).ended == SLOTD_REPLIED);
}

static void is_bad(slotd_outcome outcome, const char *words) {
    CHECK_TEXT(outcome.code, "bad-request");
    if (!strstr(outcome.message.data, words)) CHECK_TEXT(outcome.message, words);
}

static slotd_result goes_on(slotd_cx *cx) {
    const char *why;
    ask.attempts = 0;
    slotd_request_try(cx, "a", &ask, &why);
    return slotd_reply(slotd_text(why));
}

/* A handler could not see to what is wrong with its options, or would trap where it need not. */
TEST(options_that_cannot_be_are_errors) {
    slotd_session *session = slotd_new_session("session");
#define WITH(member, number) \
    (ask = plain("GET", URL), ask.member = number, asked(session, "a", ask))
    is_bad(WITH(timeout_ms, 0),
           "the timeout of an attempt, in milliseconds, is 1 to 600000, not 0");
    is_bad(WITH(timeout_ms, 600001), "not 600001");
    is_bad(WITH(deadline_ms, 86400001), "is 1 to 86400000, not 86400001");
    is_bad(WITH(attempts, 0), "the number of attempts is 1 to 20, not 0");
    is_bad(WITH(attempts, 21), "not 21");
    is_bad(WITH(redirects, 11), "at most 10 redirects are followed");
    is_bad(WITH(answer_bytes, 1 << 21), "answer's body is 1 to 1048576, not 2097152");
    const char *path = "a path has keys and numbers with dots between them";
    is_bad(asked(session, "a", shown(SLOTD_SHOW_JOINED, "a", "")), path);
    is_bad(asked(session, "a", shown(SLOTD_SHOW_JOINED, "a", "b..c")), path);
    is_bad(asked(session, "a", shown(SLOTD_SHOW_JOINED, "a", "b.")), path);
    static char long_id[130];
    is_bad(asked(session, "", plain("GET", URL)),
           "the id of a request must have 1 to 128 bytes; this one has 0");
    is_bad(asked(session, memset(long_id, 'x', 129), plain("GET", URL)), "this one has 129");
    is_bad(asked(session, "a\nb", plain("GET", URL)), "no control characters");
    CHECK(session->request_count == 0);
    CHECK(WITH(timeout_ms, 600000).ended == SLOTD_REPLIED);
    CHECK(WITH(redirects, 10).ended == SLOTD_REPLIED);
    CHECK(asked(session, "a", shown(SLOTD_SHOW_JOINED, "a", "b.0")).ended == SLOTD_REPLIED);
    slotd_outcome outcome = told(session, goes_on);
    slotd_str why;
    CHECK(slotd_as_text(outcome.json, &why) && strstr(why.data, "not 0"));
    CHECK(session->request_count == 3);
}

/* ---- what comes of it ------------------------------------------------------------------------- */

static const char *cancel_id;
static slotd_result cancels(slotd_cx *cx) {
    return slotd_reply(slotd_bool(slotd_request_cancel(cx, cancel_id)));
}

static slotd_result tells_open(const slotd_cx *cx, const slotd_json *query) {
    (void)query;
    size_t count;
    const slotd_str *ids = slotd_request_open(cx, &count);
    slotd_json *all = slotd_array();
    for (size_t i = 0; i < count; i++) slotd_push(all, slotd_text(ids[i]));
    return slotd_reply(all);
}

static slotd_result keeps_answer(slotd_cx *cx, const slotd_http_answer *answer, slotd_str body) {
    CHECK_TEXT(answer->id, cx->origin_name);
    CHECK(slotd_http_answered(cx).attempt == answer->attempt);
    CHECK(slotd_http_success(answer) == (answer->status == 200 && !answer->failed));
    if (slotd_equal(body, "later") && answer->attempt < 3)
        return slotd_reject_for_now("later", "Later.");
    if (slotd_equal(body, "never")) return slotd_reject("never", "Never.");
    /* It may ask under the same id again, and moves what was asked for before. */
    if (slotd_equal(body, "again"))
        for (int i = 0; i < 10; i++)
            slotd_request_send(cx, answer->id, slotd_request_to("GET", URL));
    slotd_json *kept = slotd_object("status", slotd_u64(answer->status), "type",
                                    slotd_text(cx->content_type), "body", slotd_text(slotd_utf8(body)),
                                    "attempts", slotd_u64(answer->attempts), "attempt",
                                    slotd_u64(answer->attempt));
    slotd_str after = slotd_http_header(answer, "Retry-After");
    if (after.data) slotd_put(kept, "after", slotd_text(after));
    if (answer->failed) {
        slotd_put(kept, "code", slotd_text(answer->code));
        slotd_put(kept, "reason", slotd_text(answer->reason));
    }
    slotd_set(cx, "answer", kept);
    return reply();
}

static bool kept_is(const slotd_session *session, const char *expected) {
    return slotd_same(slotd_parse(slotd_state(session, "answer"), NULL),
                      slotd_parse(expected, NULL));
}

static slotd_outcome responds(slotd_session *session, uint16_t status, const char *body) {
    return slotd_respond_bytes(session, "a", status, NULL, 0, "a/b",
                               slotd_bytes(body, strlen(body)));
}

/* A handler would not see what is open, or would hear of what it has ended. */
TEST(requests_are_replaced_and_cancelled_by_id) {
    slotd_session *session = slotd_new_session("session");
    on_query = tells_open;
    on_http_answer = keeps_answer;
    asked(session, "b", plain("GET", URL));
    asked(session, "a", plain("GET", URL));
    asked(session, "b", plain("GET", URL));
    const slotd_requested *requests = session->requests;
    CHECK(!requests[0].open && requests[1].open && requests[2].open);
    CHECK_JSON(slotd_ask(session, "{}").json, "[\"a\", \"b\"]");
    cancel_id = "b";
    CHECK_JSON(told(session, cancels).json, "true");
    CHECK_JSON(told(session, cancels).json, "false");
    CHECK_JSON(slotd_ask(session, "{}").json, "[\"a\"]");
    slotd_respond(session, "a", 200, "1");
    CHECK_JSON(slotd_ask(session, "{}").json, "[]");
}

/* A test could not say what comes of an answer, or of a handler that fails it. */
TEST(an_answer_comes_once_or_as_often_as_its_handler_fails) {
    slotd_session *session = slotd_new_session("session");
    on_http_answer = keeps_answer;
    slotd_request get = plain("GET", URL);
    asked(session, "a", get);
    CHECK(slotd_respond(session, "a", 200, "{\"n\": 1}").ended == SLOTD_REPLIED);
    CHECK(kept_is(session, "{\"status\": 200, \"type\": \"application/json\","
                           " \"body\": \"{\\\"n\\\": 1}\", \"attempts\": 1, \"attempt\": 1}"));
    asked(session, "a", get);
    slotd_pair header = {slotd_bytes("retry-after", 11), slotd_bytes("5", 1)};
    slotd_respond_bytes(session, "a", 429, &header, 1, "a/b", slotd_bytes("no", 2));
    CHECK(kept_is(session, "{\"status\": 429, \"type\": \"a/b\", \"body\": \"no\","
                           " \"attempts\": 1, \"attempt\": 1, \"after\": \"5\"}"));
    asked(session, "a", get);
    slotd_restart(session, "a");
    slotd_fail_request(session, "a", "timeout", "Too long.");
    CHECK(kept_is(session, "{\"status\": 0, \"type\": \"application/octet-stream\","
                           " \"body\": \"\", \"attempts\": 2, \"attempt\": 1,"
                           " \"code\": \"timeout\", \"reason\": \"Too long.\"}"));
    /* What is cut in the middle of a character is a body, too. */
    asked(session, "a", get);
    CHECK(responds(session, 200, "a\xf0\x9f").ended == SLOTD_REPLIED);
    CHECK(kept_is(session, "{\"status\": 200, \"type\": \"a/b\", \"body\": \"a??\","
                           " \"attempts\": 1, \"attempt\": 1}"));
    asked(session, "a", get);
    for (uint32_t i = 1; i < 3; i++) {
        CHECK_TEXT(responds(session, 200, "later").code, "later");
        CHECK(session->requests[4].open && session->requests[4].failures == i);
    }
    CHECK(responds(session, 200, "later").ended == SLOTD_REPLIED);
    CHECK(!session->requests[4].open);
    asked(session, "a", get);
    CHECK_TEXT(responds(session, 200, "never").code, "never");
    CHECK(!session->requests[5].open);
    asked(session, "a", get);
    CHECK(responds(session, 200, "again").ended == SLOTD_REPLIED);
    CHECK(!session->requests[6].open && session->requests[16].open);
    CHECK(session->request_count == 17);
}

static void event_is(const slotd_session *session, size_t at, uint64_t seq, const char *kind,
                     const char *body) {
    CHECK(at < session->event_count && session->events[at].seq == seq);
    CHECK_TEXT(session->events[at].kind, kind);
    CHECK_TEXT(session->events[at].body, body);
}

/* A test could not say what subscribers see while an answer comes, nor what the handler gets of it. */
TEST(parts_are_events_with_numbers_of_their_own) {
    slotd_session *session = slotd_new_session("session");
    on_http_answer = keeps_answer;
    told(session, asks_all);
    slotd_part(session, "all", "Hel");
    slotd_restart(session, "all");
    slotd_part(session, "all", "Hal");
    slotd_part(session, "all", "lo");
    CHECK(slotd_end(session, "all").ended == SLOTD_REPLIED);
    CHECK(session->event_count == 4 && session->seq == 5);
    event_is(session, 0, 2, "token", "Hel");
    event_is(session, 1, 3, "slotd.restarted", "{\"id\":\"all\",\"attempt\":2}");
    event_is(session, 2, 3, "token", "Hal");
    event_is(session, 3, 4, "token", "lo");
    CHECK_TEXT(session->events[3].content_type, "text/plain; charset=utf-8");
    CHECK(kept_is(session, "{\"status\": 200, \"type\": \"text/plain; charset=utf-8\","
                           " \"body\": \"Hallo\", \"attempts\": 2, \"attempt\": 1}"));
    told(session, asks_for_bytes);
    slotd_part(session, "bytes", "{\"a\":\n1}");
    slotd_part(session, "bytes", "");
    slotd_end(session, "bytes");
    CHECK(kept_is(session, "{\"status\": 200, \"type\": \"text/event-stream\","
                           " \"body\": \"data: {\\\"a\\\":\\ndata: 1}\\n\\ndata: \\n\\n\","
                           " \"attempts\": 1, \"attempt\": 1}"));
}
